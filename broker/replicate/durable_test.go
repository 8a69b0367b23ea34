package replicate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/tailrace/tailrace/internal/model"
)

func report() DurableReport {
	return DurableReport{Incarnation: 1 << 40, Ends: []DurableEnd{
		{TP: model.TopicPartition{Topic: model.TopicID{1}, Partition: 0}, Epoch: 0, End: 0},
		{TP: model.TopicPartition{Topic: model.TopicID{15: 9}, Partition: math.MaxInt32}, Epoch: math.MaxInt32, End: math.MaxInt64},
	}}
}

func TestDurableReportRoundTrip(t *testing.T) {
	for _, want := range []DurableReport{{Ends: []DurableEnd{}}, {Incarnation: 7, Ends: []DurableEnd{}}, report()} {
		got, err := DecodeDurableReport(want.Append(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

// Every prefix is refused, and so is a count that the bytes cannot hold: it
// must not size an allocation.
func TestDurableReportMalformed(t *testing.T) {
	rep := report()
	whole := rep.Append(nil)
	for n := range whole {
		if _, err := DecodeDurableReport(whole[:n]); !errors.Is(err, errReport) {
			t.Errorf("first %d of %d bytes: %v", n, len(whole), err)
		}
	}
	huge := binary.AppendUvarint(make([]byte, 8), 1<<40)
	if _, err := DecodeDurableReport(append(huge, make([]byte, 100)...)); !errors.Is(err, errReport) {
		t.Errorf("a huge count: %v", err)
	}
	for what, e := range map[string]DurableEnd{"end": {End: -1}, "epoch": {Epoch: -1}, "partition": {TP: model.TopicPartition{Partition: -1}}} {
		bad := DurableReport{Ends: []DurableEnd{e}}
		if _, err := DecodeDurableReport(bad.Append(nil)); !errors.Is(err, errReport) {
			t.Errorf("a negative %s: %v", what, err)
		}
	}
}

func TestIndexes(t *testing.T) {
	for _, want := range [][]int{{}, {0}, {2, 0, 299}} {
		got, err := decodeIndexes(appendIndexes(nil, want), 300)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "one that was not asked for": appendIndexes(nil, []int{3}), "more than there are": appendIndexes(nil, []int{0, 1, 2, 0}),
		"cut short": appendIndexes(nil, []int{0, 1})[:2],
	} {
		if got, err := decodeIndexes(b, 3); !errors.Is(err, errReport) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

func FuzzDurableReport(f *testing.F) {
	rep := report()
	f.Add(rep.Append(nil))
	f.Add([]byte{})
	f.Add(binary.AppendUvarint(make([]byte, 8), math.MaxUint64))
	f.Fuzz(func(t *testing.T, b []byte) {
		rep, err := DecodeDurableReport(b)
		if err != nil {
			return
		}
		if len(rep.Ends) > len(b)/minEntry {
			t.Fatalf("%d entries in %d bytes", len(rep.Ends), len(b))
		}
		for _, e := range rep.Ends {
			if e.End < 0 || e.Epoch < 0 || e.TP.Partition < 0 {
				t.Fatalf("negative: %+v", e)
			}
		}
		enc := rep.Append(nil)
		again, err := DecodeDurableReport(enc)
		if err != nil || !bytes.Equal(again.Append(nil), enc) {
			t.Fatalf("%+v does not survive: %v", rep, err)
		}
	})
}

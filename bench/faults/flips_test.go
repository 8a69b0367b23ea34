package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// A flip counts as found only by a line that names its file and covers its
// block, and as repaired only by a later one that covers its records.
func TestFlipNote(t *testing.T) {
	id := model.TopicID{1, 2, 3}
	block := segment.BlockInfo{Pos: 100, End: 200, Base: 10, Next: 20}
	found := damageLine{Event: "corruption_found", Topic: id.String(), From: 10, To: 20, File: "f", Position: 100}
	repaired := damageLine{Event: "repaired", Topic: "t", From: 5, To: 20}
	with := func(l damageLine, change func(*damageLine)) damageLine { change(&l); return l }
	for _, tt := range []struct {
		name           string
		lines          []damageLine
		found, repairs bool
	}{
		{"nothing", nil, false, false},
		{"found", []damageLine{found}, true, false},
		{"repaired", []damageLine{found, repaired}, true, true},
		{"another file", []damageLine{with(found, func(l *damageLine) { l.File = "g" }), repaired}, false, false},
		{"another block", []damageLine{with(found, func(l *damageLine) { l.Position = 0 }), repaired}, false, false},
		{"too short", []damageLine{with(found, func(l *damageLine) { l.To = 19 }), repaired}, false, false},
		{"repaired before", []damageLine{repaired, found}, true, false},
		{"repaired in part", []damageLine{found, with(repaired, func(l *damageLine) { l.From = 11 })}, true, false},
		{"repaired elsewhere", []damageLine{found, with(repaired, func(l *damageLine) { l.Partition = 1 })}, true, false},
	} {
		f := bitFlip{TP: model.TopicPartition{Topic: id}, File: "f", Block: block}
		f.note(tt.lines, "t", 7)
		if f.Found > 0 != tt.found || f.Repaired > 0 != tt.repairs {
			t.Errorf("%s: found %d, repaired %d", tt.name, f.Found, f.Repaired)
		}
	}
}

func TestDamageLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	before := `{"event":"repaired","topic":"old"}` + "\n"
	after := "--- start 2\n" + `{"event":"other"}` + "\n" +
		`{"event":"corruption_found","topic":"t","partition":2,"from":3,"to":4,"file":"f","position":5}` + "\n" + `{"event":"repai`
	if err := os.WriteFile(name, []byte(before+after), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := damageLines(name, int64(len(before)))
	want := damageLine{Event: "corruption_found", Topic: "t", Partition: 2, From: 3, To: 4, File: "f", Position: 5}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Fatalf("%+v, %v", got, err)
	}
}

// TestStoredRecords reads records across blocks and segments, as a flip's block
// of one replica may lie on another.
func TestStoredRecords(t *testing.T) {
	dir := t.TempDir()
	s, err := segment.Open(segment.Options{Dir: dir, IndexBytes: 600})
	if err != nil {
		t.Fatal(err)
	}
	p := model.TopicPartition{Topic: model.TopicID{1}, Partition: 3}
	ls, err := s.Create(segment.CreateSpec{TP: p, Config: segment.LogConfig{SegmentBytes: 4 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	var raws [][]byte
	for i := range int64(50) {
		b := batch.Plain(i, 1, batch.Record{Value: bytes.Repeat([]byte{byte(i)}, 200)})
		raws = append(raws, bytes.Clone(b))
		if _, err := ls[0].Append(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stored, err := openStored(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(stored.segs) < 3 || !stored.has(p) || stored.has(model.TopicPartition{}) {
		t.Fatalf("%+v", stored.segs)
	}
	for _, r := range [][2]int64{{0, 50}, {0, 1}, {7, 31}, {49, 50}} {
		got, err := stored.records(p, r[0], r[1])
		if err != nil || !bytes.Equal(got, bytes.Join(raws[r[0]:r[1]], nil)) {
			t.Errorf("%v: %d bytes, %v", r, len(got), err)
		}
	}
	if _, err := stored.records(p, 40, 51); err == nil {
		t.Error("records beyond the end were found")
	}
}

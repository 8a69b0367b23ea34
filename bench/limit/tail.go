package limit

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// tailBytes bounds what the tail keeps in memory over all partitions.
const tailBytes = 64 << 20

// offsetOutOfRange is Kafka's OFFSET_OUT_OF_RANGE.
const offsetOutOfRange = 1

// entry is the batches of one append: [base, next).
type entry struct {
	f          *frame
	part       partition
	base, next int64
	raw        []byte
}

// size is what the entry costs: its share of a frame that is a power of two.
func (e *entry) size() int { return 1 << class(len(e.raw)) }

// tail keeps the last appends in memory and serves consumers from them.
type tail struct {
	mu     sync.Mutex
	parts  map[partition]*tailLog
	order  []*entry // oldest first, over all partitions
	bytes  int
	wake   chan struct{} // closed and replaced when something was added
	waiter int           // fetches that wait on wake
	closed bool
}

type tailLog struct {
	start, end int64
	entries    []*entry
}

func newTail() *tail {
	return &tail{parts: map[partition]*tailLog{}, wake: make(chan struct{})}
}

func (t *tail) log(p partition) *tailLog {
	l := t.parts[p]
	if l == nil {
		l = &tailLog{}
		t.parts[p] = l
	}
	return l
}

// add makes entries visible to consumers, in offset order within a partition.
func (t *tail) add(entries []*entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range entries {
		e.f.hold()
		l := t.log(e.part)
		l.entries = append(l.entries, e)
		l.end = e.next
		t.order = append(t.order, e)
		t.bytes += e.size()
	}
	for t.bytes > tailBytes && len(t.order) > 1 {
		t.drop()
	}
	if t.waiter > 0 {
		close(t.wake)
		t.wake, t.waiter = make(chan struct{}), 0
	}
}

func (t *tail) drop() {
	e := t.order[0]
	t.order[0] = nil
	t.order = t.order[1:]
	l := t.log(e.part)
	l.entries[0] = nil
	l.entries = l.entries[1:]
	l.start = e.next
	t.bytes -= e.size()
	e.f.release()
}

func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.wake)
	}
}

// fetch answers when there are MinBytes or after MaxWait.
func (t *tail) fetch(req *kmsg.FetchRequest) kmsg.Response {
	deadline := time.NewTimer(time.Duration(req.MaxWaitMillis) * time.Millisecond)
	defer deadline.Stop()
	for last := false; ; {
		t.mu.Lock()
		resp, n, failed := t.read(req)
		wake := t.wake
		last = last || t.closed
		if !last && !failed && n < int(req.MinBytes) {
			t.waiter++
		}
		t.mu.Unlock()
		if last || failed || n >= int(req.MinBytes) {
			return resp
		}
		select {
		case <-wake:
		case <-deadline.C:
			last = true
		}
	}
}

// read collects what is there. Called with the lock held.
func (t *tail) read(req *kmsg.FetchRequest) (resp *kmsg.FetchResponse, total int, failed bool) {
	resp = req.ResponseKind().(*kmsg.FetchResponse)
	for i := range req.Topics {
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = req.Topics[i].Topic
		for _, rp := range req.Topics[i].Partitions {
			p := t.readPartition(partition{rt.Topic, rp.Partition}, rp.FetchOffset, min(int(rp.PartitionMaxBytes), int(req.MaxBytes)-total))
			total += len(p.RecordBatches)
			failed = failed || p.ErrorCode != 0
			rt.Partitions = append(rt.Partitions, p)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, total, failed
}

func (t *tail) readPartition(part partition, offset int64, budget int) kmsg.FetchResponseTopicPartition {
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition = part.id
	p.RecordBatches = []byte{}
	l := t.log(part)
	p.HighWatermark, p.LastStableOffset, p.LogStartOffset = l.end, l.end, l.start
	if offset < l.start || offset > l.end {
		p.ErrorCode = offsetOutOfRange
		return p
	}
	for i := l.find(offset); i < len(l.entries); i++ {
		raw := l.entries[i].raw
		if len(p.RecordBatches) > 0 && len(p.RecordBatches)+len(raw) > budget || budget <= 0 {
			break
		}
		p.RecordBatches = append(p.RecordBatches, raw...)
	}
	return p
}

// find returns the index of the entry that holds offset.
func (l *tailLog) find(offset int64) int {
	lo, hi := 0, len(l.entries)
	for lo < hi {
		if mid := (lo + hi) / 2; l.entries[mid].next <= offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (t *tail) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, rt := range req.Topics {
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			l := t.log(partition{rt.Topic, rp.Partition})
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch = rp.Partition, l.end, 0
			if rp.Timestamp == -2 { // earliest
				p.Offset = l.start
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

// sequencer gives each partition's appends their offsets.
type sequencer struct{ next map[partition]int64 }

func newSequencer() *sequencer { return &sequencer{next: map[partition]int64{}} }

// place stamps one append and returns its entry.
func (s *sequencer) place(f *frame, p partition, raw []byte) *entry {
	e := &entry{f: f, part: p, base: s.next[p], raw: raw}
	e.next = stamp(raw, e.base)
	s.next[p] = e.next
	return e
}

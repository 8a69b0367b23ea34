package limit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// StoreConfig says who one process of the sendfile program is.
type StoreConfig struct {
	ID    int      // index into Kafka
	Kafka []string // client addresses of all processes
	Dir   string   // one directory for all of them, which exists
}

// store is the sendfile program: what reading a log from disk costs at least.
// A partition is one file of batches as they came. Produce appends to it and
// syncs nothing; Fetch finds the batch and hands the file to sendfile. All
// processes serve all files of one directory, so that each can stand for a
// replica; only the partition's leader writes.
type store struct {
	cfg   StoreConfig
	addrs []net.TCPAddr

	mu   sync.Mutex
	logs map[partition]*storeLog
}

// storeLog is one file and the index of the batches in it.
type storeLog struct {
	mu      sync.Mutex
	f       *os.File
	size    int64 // bytes that are indexed
	next    int64 // the offset after them
	batches []storedBatch
}

// storedBatch is where a batch ends, as an offset and in the file.
type storedBatch struct{ next, end int64 }

// StartStore serves one process of the sendfile program.
func StartStore(cfg StoreConfig) (*Server, error) {
	if cfg.ID < 0 || cfg.ID >= len(cfg.Kafka) {
		return nil, fmt.Errorf("limit: bad configuration %+v", cfg)
	}
	s := &store{cfg: cfg, logs: map[partition]*storeLog{}}
	for _, a := range cfg.Kafka {
		addr, err := net.ResolveTCPAddr("tcp", a)
		if err != nil {
			return nil, err
		}
		s.addrs = append(s.addrs, *addr)
	}
	ln, err := net.Listen("tcp", cfg.Kafka[cfg.ID])
	if err != nil {
		return nil, err
	}
	return serve(ln, s), nil
}

func (s *store) log(p partition) (*storeLog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[p]; l != nil {
		return l, nil
	}
	name := fmt.Sprintf("%s-%d.log", filepath.Base(p.topic), p.id)
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	l := &storeLog{f: f}
	s.logs[p] = l
	return l, nil
}

// refresh indexes what was written since the last call, by whatever process.
// Called with the log's lock held.
func (l *storeLog) refresh() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	var head [batch.HeaderLen]byte
	for l.size+int64(len(head)) <= info.Size() {
		if _, err := l.f.ReadAt(head[:], l.size); err != nil {
			return err
		}
		h, err := batch.Parse(head[:])
		if err != nil {
			return err
		}
		end := l.size + int64(h.Size())
		if end > info.Size() {
			return nil // still being written
		}
		l.size, l.next = end, h.BaseOffset+int64(h.LastOffsetDelta)+1
		l.batches = append(l.batches, storedBatch{l.next, end})
	}
	return nil
}

func (s *store) append(_ *frame, parts []partition, records [][]byte, done func([]appended)) {
	out := make([]appended, len(parts))
	for i, p := range parts {
		out[i] = appended{part: p, base: -1, code: storageError}
		l, err := s.log(p)
		if err != nil {
			continue
		}
		if base, err := l.append(records[i]); err == nil {
			out[i] = appended{part: p, base: base}
		}
	}
	done(out)
}

func (l *storeLog) append(records []byte) (base int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(); err != nil {
		return -1, err
	}
	base = l.next
	stamp(records, base)
	if _, err := l.f.WriteAt(records, l.size); err != nil {
		return -1, err
	}
	return base, l.refresh()
}

// span finds the batches from offset on, whole, at least one, that fit into
// budget bytes.
func (l *storeLog) span(offset int64, budget int32) (at, n, end int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(); err != nil {
		return 0, 0, 0, err
	}
	i := sort.Search(len(l.batches), func(i int) bool { return l.batches[i].next > offset })
	if i == len(l.batches) {
		return 0, 0, l.next, nil
	}
	if i > 0 {
		at = l.batches[i-1].end
	}
	n = l.batches[i].end - at
	for i++; i < len(l.batches) && l.batches[i].end-at <= int64(budget); i++ {
		n = l.batches[i].end - at
	}
	return at, n, l.next, nil
}

// storeFetchVersion is the only version of Fetch that the program serves, with
// one partition a request: what a raw fetcher sends.
const storeFetchVersion = 11

func (s *store) fetch(req *kmsg.FetchRequest, correlation int32) (reply, error) {
	if req.Version != storeFetchVersion || len(req.Topics) != 1 || len(req.Topics[0].Partitions) != 1 {
		return reply{}, errors.New("limit: the sendfile program serves Fetch version 11 for one partition: read it by a raw fetcher")
	}
	topic, part := req.Topics[0].Topic, req.Topics[0].Partitions[0]
	l, err := s.log(partition{topic, part.Partition})
	if err != nil {
		return reply{}, err
	}
	at, n, end, err := l.span(part.FetchOffset, part.PartitionMaxBytes)
	if err != nil {
		return reply{}, err
	}
	b := kbin.AppendInt32(make([]byte, 0, 128), 0) // length, below
	b = kbin.AppendInt32(b, correlation)
	b = kbin.AppendInt32(b, 0) // throttle
	b = kbin.AppendInt16(b, 0) // error
	b = kbin.AppendInt32(b, 0) // session
	b = kbin.AppendArrayLen(b, 1)
	b = kbin.AppendString(b, topic)
	b = kbin.AppendArrayLen(b, 1)
	b = kbin.AppendInt32(b, part.Partition)
	b = kbin.AppendInt16(b, 0)    // error
	b = kbin.AppendInt64(b, end)  // high watermark
	b = kbin.AppendInt64(b, end)  // last stable offset
	b = kbin.AppendInt64(b, 0)    // log start
	b = kbin.AppendArrayLen(b, 0) // aborted transactions
	b = kbin.AppendInt32(b, -1)   // preferred read replica
	b = kbin.AppendInt32(b, int32(n))
	copy(b, kbin.AppendInt32(nil, int32(int64(len(b)-4)+n)))
	return reply{head: b, file: l.f, at: at, n: n}, nil
}

func (s *store) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, rt := range req.Topics {
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch = rp.Partition, 0, 0
			if l, err := s.log(partition{rt.Topic, rp.Partition}); err != nil {
				p.ErrorCode = storageError
			} else if _, _, end, err := l.span(0, 0); err != nil {
				p.ErrorCode = storageError
			} else if rp.Timestamp != -2 { // not the earliest
				p.Offset = end
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func (s *store) close() {}

func (s *store) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, l := range s.logs {
		errs = append(errs, l.f.Close())
	}
	return errors.Join(errs...)
}

func (s *store) brokers() []net.TCPAddr { return s.addrs }
func (s *store) leader(id int32) int32  { return id % int32(len(s.addrs)) }

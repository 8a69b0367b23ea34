package limit

import (
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// corruptMessage is Kafka's CORRUPT_MESSAGE.
const corruptMessage = 2

// produce checks and appends the batches of one request. The answer comes when
// the backend has them, which may be later.
func (s *Server) produce(f *frame, req *kmsg.ProduceRequest, correlation int32, answer chan<- reply) {
	var parts []partition
	var records [][]byte
	var bad []appended
	for _, t := range req.Topics {
		topic := s.topics.intern(t.Topic)
		for _, p := range t.Partitions {
			part := partition{topic, p.Partition}
			if verify(p.Records) != nil {
				bad = append(bad, appended{part, -1, corruptMessage})
				continue
			}
			parts = append(parts, part)
			records = append(records, p.Records)
		}
	}
	s.b.append(f, parts, records, func(done []appended) {
		defer f.release()
		if req.Acks == 0 {
			close(answer)
			return
		}
		answer <- reply{head: encode(correlation, produceResponse(req, append(done, bad...)))}
	})
}

// verify checks the checksum of every batch.
func verify(b []byte) error {
	for len(b) > 0 {
		_, raw, err := batch.Next(b)
		if err != nil {
			return err
		}
		if err := batch.VerifyCRC(raw); err != nil {
			return err
		}
		b = b[len(raw):]
	}
	return nil
}

func produceResponse(req *kmsg.ProduceRequest, done []appended) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	index := map[string]int{}
	for _, d := range done {
		i, ok := index[d.part.topic]
		if !ok {
			i = len(resp.Topics)
			index[d.part.topic] = i
			t := kmsg.NewProduceResponseTopic()
			t.Topic = d.part.topic
			resp.Topics = append(resp.Topics, t)
		}
		p := kmsg.NewProduceResponseTopicPartition()
		p.Partition, p.BaseOffset, p.ErrorCode = d.part.id, d.base, d.code
		resp.Topics[i].Partitions = append(resp.Topics[i].Partitions, p)
	}
	return resp
}

// stamp gives the batches of b consecutive offsets from base in place and
// returns the next offset.
func stamp(b []byte, base int64) int64 {
	for len(b) > 0 {
		h, raw, err := batch.Next(b)
		if err != nil {
			break // verify has seen it
		}
		batch.Stamp(raw, base, 0)
		base += int64(h.LastOffsetDelta) + 1
		b = b[len(raw):]
	}
	return base
}

package api

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Produce (0, versions 3-13).
//
//   - Every partition's batch is handed to its replica without copying: the
//     request body stays pinned until the last replica is done with it.
//   - The answer leaves when all partitions are decided, or at the timeout
//     with REQUEST_TIMED_OUT for those that are not. The append itself is not
//     taken back by a timeout: it may still be committed.
//   - acks=0 has no answer; an error closes the connection instead, so that
//     the client looks for the leader again.
//   - A producer that missed the leader learns the new one (KIP-951, version 10).
//   - There are no transactions yet: a transactional id is refused.
func produce(c *call) {
	p := &produceCall{call: c}
	if !c.decode(&p.req) {
		return
	}
	parts := 0
	for i := range p.req.Topics {
		parts += len(p.req.Topics[i].Partitions)
	}
	p.parts = make([]producePart, parts)
	// One more than the partitions: the handler's own, given back when all
	// are handed over, so that the answer cannot leave half way.
	p.left.Store(int32(parts) + 1)
	p.handOver()
	p.armTimeout()
	p.finish(1)
}

// produceCall is a produce request until its last partition is decided.
type produceCall struct {
	*call
	req   kmsg.ProduceRequest
	parts []producePart
	left  atomic.Int32 // undecided partitions
	// appends is nil for one partition; the handler's only.
	appends Appends

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	sent  bool        // guarded by mu: results are frozen
}

// producePart is one partition of a produce request.
type producePart struct {
	call    *produceCall
	at      *control.Partition // for hints; nil if unknown
	replica Replica            // nil if it was refused
	req     partition.AppendRequest
	decided bool // guarded by call.mu
	result  partition.AppendResult
}

// Complete implements partition.Completion.
func (pt *producePart) Complete(r partition.AppendResult) {
	p := pt.call
	p.mu.Lock()
	if !p.sent {
		pt.result, pt.decided = r, true
	}
	p.mu.Unlock()
	p.finish(1)
}

func (pt *producePart) refuse(code int16, msg string) {
	pt.Complete(partition.AppendResult{Err: code, Message: msg, BaseOffset: -1, LogAppendTime: -1, LogStart: -1})
}

// handOver gives every partition to its replica, or refuses it.
func (p *produceCall) handOver() {
	refusal, msg := p.refusal()
	img := p.s.b.Image()
	if len(p.parts) > 1 {
		p.appends = p.s.b.Appends()
		defer p.appends.End()
	}
	next := 0
	for i := range p.req.Topics {
		t := &p.req.Topics[i]
		for j := range t.Partitions {
			pt := &p.parts[next]
			next++
			pt.call = p
			if refusal != 0 {
				pt.refuse(refusal, msg)
				continue
			}
			p.appendTo(pt, img, t, &t.Partitions[j])
		}
	}
}

// refusal is what is wrong with the request as a whole.
func (p *produceCall) refusal() (code int16, msg string) {
	switch {
	case p.req.TransactionID != nil:
		return kerr.TransactionalIDAuthorizationFailed.Code, "transactions are not supported by this broker"
	case p.req.Acks < -1 || p.req.Acks > 1:
		return kerr.InvalidRequiredAcks.Code, "acks must be 0, 1 or -1"
	default:
		return 0, ""
	}
}

func (p *produceCall) appendTo(pt *producePart, img *control.Image, t *kmsg.ProduceRequestTopic, rp *kmsg.ProduceRequestTopicPartition) {
	f, code := p.find(img, p.version >= 13, t.TopicID, t.Topic, rp.Partition)
	pt.at = f.partition
	switch {
	case code != 0:
		pt.refuse(code, "")
	case f.topic.Internal && !p.peer.Internal:
		pt.refuse(kerr.TopicAuthorizationFailed.Code, "internal topics are written by brokers only")
	case f.replica == nil:
		pt.refuse(kerr.NotLeaderForPartition.Code, "")
	default:
		if code, msg := checkRecords(p.version, rp.Records); code != 0 {
			pt.refuse(code, msg)
			return
		}
		pt.req = partition.AppendRequest{Batches: rp.Records, Acks: p.req.Acks, Epoch: -1, Done: pt}
		pt.replica = f.replica
		if p.appends != nil {
			p.appends.Append(f.replica, &pt.req)
		} else {
			f.replica.Append(&pt.req)
		}
	}
}

// checkRecords applies the rules of the request itself: exactly one batch of
// format 2 for each partition, zstd only where clients understand it (KIP-110).
// What depends on the topic is the replica's to check.
func checkRecords(version int16, records []byte) (code int16, msg string) {
	h, raw, err := batch.Next(records)
	switch {
	case len(records) < batch.HeaderLen || (err == nil && len(raw) != len(records)):
		return kerr.InvalidRecord.Code, "a partition needs exactly one record batch"
	case err == nil && version < 7 && h.Compression() == zstdCodec:
		return kerr.UnsupportedCompressionType.Code, "zstd needs produce version 7"
	default:
		return 0, "" // other faults are the replica's to name
	}
}

const zstdCodec = 4

// armTimeout starts the clock unless everything is decided already.
func (p *produceCall) armTimeout() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent || p.left.Load() == 1 {
		return
	}
	p.timer = time.AfterFunc(max(millis(p.req.TimeoutMillis), 0), p.expire)
}

// expire gives up at the timeout. Appends that are written complete with a
// timeout at once. Those that are still queued keep their batches, so the body
// must not be recycled after the answer.
func (p *produceCall) expire() {
	defer p.recoverPanic()
	for i := range p.parts {
		if pt := &p.parts[i]; !p.isDecided(pt) {
			pt.replica.Cancel(pt)
		}
	}
	if p.freeze() {
		p.out.Detach()
		p.answer()
	}
}

func (p *produceCall) isDecided(pt *producePart) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pt.decided || p.sent
}

// finish counts n decided partitions and answers after the last.
func (p *produceCall) finish(n int32) {
	if p.left.Add(-n) == 0 && p.freeze() {
		p.answer()
	}
}

// freeze ends the collecting of results; it is true for one caller.
func (p *produceCall) freeze() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent {
		return false
	}
	p.sent = true
	if p.timer != nil {
		p.timer.Stop()
	}
	return true
}

// answer sends the results, which are frozen.
func (p *produceCall) answer() {
	defer p.recoverPanic() // it may run on a replica's caller
	if p.req.Acks == 0 {
		p.answerUnacknowledged()
		return
	}
	resp := kmsg.ProduceResponse{Topics: make([]kmsg.ProduceResponseTopic, len(p.req.Topics))}
	partitions := make([]kmsg.ProduceResponseTopicPartition, len(p.parts))
	var hints leaderHints
	img := p.s.b.Image()
	next := 0
	for i := range p.req.Topics {
		t := &p.req.Topics[i]
		first := next
		for j := range t.Partitions {
			p.parts[next].encode(&partitions[next], t.Partitions[j].Partition, img, &hints)
			next++
		}
		resp.Topics[i] = kmsg.ProduceResponseTopic{Topic: t.Topic, TopicID: t.TopicID, Partitions: partitions[first:next]}
	}
	for _, n := range hints.nodes {
		resp.Brokers = append(resp.Brokers, kmsg.ProduceResponseBroker{NodeID: n.id, Host: n.host, Port: n.port, Rack: n.rack})
	}
	p.reply(&resp)
}

func (pt *producePart) encode(r *kmsg.ProduceResponseTopicPartition, index int32, img *control.Image, hints *leaderHints) {
	r.Default()
	r.Partition = index
	if !pt.decided {
		r.ErrorCode, r.BaseOffset = kerr.RequestTimedOut.Code, -1
		return
	}
	res := &pt.result
	r.ErrorCode, r.BaseOffset, r.LogAppendTime, r.LogStartOffset = res.Err, res.BaseOffset, res.LogAppendTime, res.LogStart
	r.ErrorMessage = message(res.Message)
	if wantsHint(res.Err) && pt.call.version >= 10 {
		r.CurrentLeader.LeaderID, r.CurrentLeader.LeaderEpoch = hints.add(pt.call.call, img, pt.at)
	}
}

// answerUnacknowledged ends an acks=0 request.
func (p *produceCall) answerUnacknowledged() {
	for i := range p.parts {
		if pt := &p.parts[i]; pt.decided && pt.result.Err != 0 {
			p.close(fmt.Errorf("produce with acks=0 failed: %w", kerr.ErrorForCode(pt.result.Err)))
			return
		}
	}
	p.noReply()
}

package api

import (
	"fmt"
	"hash/maphash"
	"math"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Fetch (1, versions 4-18) serves consumers and followers.
//
//   - Long polling: the answer leaves with MinBytes of records, at once on an
//     error, a diverging epoch or a redirect, and otherwise at MaxWait. A
//     follower is answered the moment the log end or the high watermark moved.
//   - Incremental sessions (KIP-227): a session's work is proportional to
//     the partitions that changed. See fetchSet.
//   - Sizes (KIP-74): the first batch of the first partition with data is
//     returned whatever the limits say.
//   - Any replica serves consumers that know KIP-392 (version 11); older
//     ones are sent to the leader.
//   - A replica fetch is accepted on the internal listener only, from the
//     broker that it names. Elsewhere it closes the connection.
func fetch(c *call) {
	f := &fetchCall{call: c}
	if !c.decode(&f.req) {
		return
	}
	if err := f.identify(); err != nil {
		c.fail(err)
		return
	}
	f.limits()
	if f.rack = cloneString(f.req.Rack); f.rack != "" {
		f.client = maphash.String(clientSeed, c.peer.Remote+c.clientID) | 1
	}
	code, started := f.enterSet()
	switch {
	case code != 0:
		c.replyParts(encodeFetch(c.version, &fetchResponse{code: code})...)
	case started:
		f.run()
	}
}

// clientSeed makes the numbers of consumers, which never leave the process.
var clientSeed = maphash.MakeSeed()

// identify decides whether a consumer or which follower asks.
func (f *fetchCall) identify() error {
	claimed, epoch := f.req.ReplicaID, int64(0)
	if f.version >= 15 {
		claimed, epoch = f.req.ReplicaState.ID, f.req.ReplicaState.Epoch
	}
	f.follower = model.NoBroker
	if claimed < 0 {
		return nil
	}
	if replicaID(f.call, claimed) < 0 {
		return fmt.Errorf("%w: fetch as replica %d", ErrRefused, claimed)
	}
	f.follower, f.incarnation = model.BrokerID(claimed), model.Incarnation(epoch)
	return nil
}

func (f *fetchCall) limits() {
	f.maxBytes = int(max(f.req.MaxBytes, 0))
	if f.follower == model.NoBroker {
		f.maxBytes = min(f.maxBytes, f.s.opts.FetchMaxBytes)
	}
	f.minBytes = min(int(f.req.MinBytes), f.maxBytes)
	f.deadline = f.s.b.Clock().Elapsed() + millis(max(f.req.MaxWaitMillis, 0))
}

// kinds is what may change the answer to this request.
func (f *fetchCall) kinds() partition.Kind {
	if f.follower != model.NoBroker {
		return partition.EndMoved | partition.HWMoved
	}
	return partition.HWMoved
}

// read reads one partition into its entry. remaining is what is left of the
// response, and minOne asks for a batch even if it does not fit.
func (f *fetchCall) read(img *control.Image, e *fetchEntry, remaining int, minOne bool) {
	e.release()
	fd, code := f.find(img, f.version >= 13, e.topic.id, e.topic.name, e.partition)
	e.at = fd.partition
	e.watch(fd.replica, f)
	if code == 0 {
		code = f.refusal(fd)
	}
	if code != 0 {
		e.res = partition.ReadResult{Err: code, PreferredReplica: model.NoBroker}
		return
	}
	req := partition.ReadRequest{
		Offset: e.offset, MaxBytes: min(int(max(e.maxBytes, 0)), max(remaining, 0)), MinOne: minOne,
		CurrentEpoch: e.currentEpoch, LastFetchedEpoch: e.lastFetchedEpoch,
		Follower: f.follower, Incarnation: f.incarnation, Rack: f.rack, Client: f.client,
		ReadCommitted: f.req.IsolationLevel == 1, Now: f.s.b.Clock().Elapsed(),
	}
	e.res = fd.replica.Read(req)
	if p := e.res.PreferredReplica; p != model.NoBroker && e.res.Err == 0 && fd.partition.Leader == f.s.b.Self() && !f.reachable(p) {
		e.release()
		req.Rack = ""
		e.res = fd.replica.Read(req)
	}
}

// refusal is why an existing partition is not read here, 0 if it is.
func (f *fetchCall) refusal(fd found) int16 {
	switch {
	case fd.replica == nil:
		return kerr.NotLeaderForPartition.Code
	case fd.partition.Leader != f.s.b.Self() && (f.follower != model.NoBroker || f.version < 11):
		return kerr.NotLeaderForPartition.Code
	default:
		return 0
	}
}

func (f *fetchCall) reachable(id model.BrokerID) bool {
	_, _, ok := f.s.b.Endpoint(f.peer.Listener, id)
	return ok
}

// knownHW is the high watermark that a follower says it has (KIP-1166).
func knownHW(version int16, p *kmsg.FetchRequestTopicPartition) int64 {
	if version >= 18 && p.HighWatermark != math.MaxInt64 {
		return p.HighWatermark
	}
	return -1
}

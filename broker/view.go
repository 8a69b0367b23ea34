package broker

import (
	"context"

	"github.com/tailrace/tailrace/broker/api"
	"github.com/tailrace/tailrace/broker/host"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// replicaView is a hosted replica as the protocol sees it. It implements
// api.Replica.
type replicaView struct {
	b *Broker
	h *host.Host
	r *partition.Replica
}

// errStorage is Kafka's KAFKA_STORAGE_ERROR, which clients retry.
const errStorage = 56

// Append implements api.Replica. Below the disk reserve it refuses; reading,
// replication and deletion go on.
func (v *replicaView) Append(req *partition.AppendRequest) {
	if v.b.diskLow.Load() {
		req.Done.Complete(partition.AppendResult{
			Err: errStorage, Message: "free disk space is below the broker's reserve", BaseOffset: -1, LogAppendTime: -1, LogStart: -1,
		})
		return
	}
	v.h.Append(v.r, req)
}

// Read implements api.Replica.
func (v *replicaView) Read(req partition.ReadRequest) partition.ReadResult { return v.h.Read(v.r, req) }

// watch adapts a function to partition.Watcher; its address is its identity.
type watch struct{ fn func() }

// Wake implements partition.Watcher.
func (w *watch) Wake() { w.fn() }

// Watch implements api.Replica.
func (v *replicaView) Watch(mask api.Change, fn func()) (cancel func()) {
	var kinds partition.Kind
	if mask&api.ChangeEnd != 0 {
		kinds |= partition.EndMoved
	}
	if mask&api.ChangeHW != 0 {
		kinds |= partition.HWMoved
	}
	w := &watch{fn}
	v.r.Watch(w, kinds)
	return func() { v.r.Unwatch(w) }
}

// Offset implements api.Replica.
func (v *replicaView) Offset(q api.OffsetRequest) api.OffsetResult {
	res := v.r.ListOffset(partition.OffsetQuery{Timestamp: q.Timestamp, CurrentEpoch: q.CurrentEpoch, Confirmed: v.b.LeaseValid()})
	return api.OffsetResult{Err: res.Err, Offset: res.Offset, Timestamp: res.Timestamp, Epoch: res.Epoch}
}

// EpochEnd implements api.Replica.
func (v *replicaView) EpochEnd(current, epoch model.LeaderEpoch) api.EpochEndResult {
	code, d := v.r.OffsetForEpoch(current, epoch)
	return api.EpochEndResult{Err: code, Epoch: d.Epoch, End: d.End}
}

// DeleteRecords implements api.Replica.
func (v *replicaView) DeleteRecords(_ context.Context, before int64) (low int64, code int16) {
	v.h.Do(v.r.TP(), func(r *partition.Replica, eff *partition.Effects) {
		if r == v.r {
			code, low = r.DeleteRecords(before, eff)
		}
	})
	return low, code
}

// Status implements api.Replica.
func (v *replicaView) Status() api.ReplicaStatus {
	s := v.r.Status()
	return api.ReplicaStatus{Size: s.Bytes, LogStart: s.LogStart, End: s.LogEnd, HighWatermark: s.HighWatermark}
}

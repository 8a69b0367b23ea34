package broker

import (
	"github.com/tailrace/tailrace/broker/api"
	"github.com/tailrace/tailrace/broker/host"
	"github.com/tailrace/tailrace/partition"
)

// replicaView is a hosted replica whose effects are carried out. It implements
// api.Replica; what has no effects comes from the replica itself.
type replicaView struct {
	*partition.Replica
	b *Broker
	h *host.Host
}

// errStorage is Kafka's KAFKA_STORAGE_ERROR, which clients retry.
const errStorage = 56

// Append implements api.Replica. Below the disk reserve it refuses; reading,
// replication and deletion go on.
func (v *replicaView) Append(req *partition.AppendRequest) {
	if !v.b.refuseFull(req) {
		v.h.Append(v.Replica, req)
	}
}

// refuseFull completes an append for which there is no room.
func (b *Broker) refuseFull(req *partition.AppendRequest) bool {
	if !b.diskLow.Load() {
		return false
	}
	req.Done.Complete(partition.AppendResult{
		Err: errStorage, Message: "free disk space is below the broker's reserve", BaseOffset: -1, LogAppendTime: -1, LogStart: -1,
	})
	return true
}

// appends implements api.Appends.
type appends struct {
	b *Broker
	host.Appends
}

// Appends begins the appends of one request.
func (b *Broker) Appends() api.Appends { return appends{b, b.host.Appends()} }

// Append implements api.Appends.
func (a appends) Append(r api.Replica, req *partition.AppendRequest) {
	if !a.b.refuseFull(req) {
		a.Appends.Append(r.(*replicaView).Replica, req)
	}
}

// Cancel implements api.Replica.
func (v *replicaView) Cancel(c partition.Completion) {
	v.do(func(r *partition.Replica, eff *partition.Effects) { r.Cancel(c, eff) })
}

// Read implements api.Replica.
func (v *replicaView) Read(req partition.ReadRequest) partition.ReadResult {
	return v.h.Read(v.Replica, req)
}

// DeleteRecords implements api.Replica.
func (v *replicaView) DeleteRecords(offset int64) (code int16, logStart int64) {
	code, logStart = errNotLeader, -1
	v.do(func(r *partition.Replica, eff *partition.Effects) { code, logStart = r.DeleteRecords(offset, eff) })
	return code, logStart
}

// errNotLeader is Kafka's NOT_LEADER_OR_FOLLOWER.
const errNotLeader = 6

// do runs f on the replica unless the host has another one by now.
func (v *replicaView) do(f func(r *partition.Replica, eff *partition.Effects)) {
	v.h.Do(v.TP(), func(r *partition.Replica, eff *partition.Effects) {
		if r == v.Replica {
			f(r, eff)
		}
	})
}

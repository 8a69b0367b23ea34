// Package isr is the replication state machine of one partition: roles,
// epochs, follower progress, the maximal in-sync set, the high watermark, and
// the choice of the synchronous set. It is pure: time comes in with events,
// decisions go out as effects; there is no I/O, clock, goroutine, randomness or
// map iteration, so a sequence of events always gives the same effects.
//
// # High watermark
//
// The high watermark is the least durable end over the maximal in-sync set: the
// committed set, plus proposed members whose proposal is not yet known to have
// failed. The leader's own durable end counts like any other. A member whose
// removal was proposed counts until the removal is committed. The watermark
// does not move while the committed set is smaller than min.insync.replicas;
// pending members never count towards that floor, because an election would
// not consider them. It never goes back.
//
// # Progress
//
// A follower's progress belongs to one of its incarnations and to one leader
// epoch, and is forgotten when either changes. Durable reports count only after
// the follower's log was found to match by a fetch in this epoch: before that
// its end may lie in records that it is about to truncate.
//
// # In-sync changes
//
// Changes are proposals. They are adopted only when the committed state comes
// back through ApplyMeta, never on the controller's answer. A rejected proposal
// is rolled back. One whose fate is unknown keeps its members counting until the
// partition epoch moves, because only then can it not commit any more; if
// nothing else is to be changed, the leader proposes the committed set again to
// move the partition epoch. At most one proposal is outstanding.
//
// A follower joins when it is caught up to the high watermark and to the start
// of the leader epoch (KAFKA-7128), eligible, under its registered incarnation
// (KIP-903), and less than StallMax behind, so that its joining does not hold
// back acknowledgements. Lag is judged by time behind: how long ago its durable
// end covered everything the leader had. With a target size, a member that made
// no progress for StallMax while behind is swapped for a caught-up replica in
// one proposal; without a replacement it is dropped after LagMax. Whoever left
// the set must wait a hold-off, doubled on each repetition, before it is
// proposed again, unless the set is below its minimum.
package isr

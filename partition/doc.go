// Package partition is one replica of a partition: it feeds events to the
// replication state machine (package isr), owns the log, keeps producer state
// (idempotence) and turns decisions into effects for its caller. It starts no
// goroutine and reads time only from the clock it is given.
//
// # Effects
//
// A method that changes something takes *Effects, a reused buffer. The caller
// carries it out after the call: it completes Done, makes Dirty logs durable in
// a group commit and then calls Persisted, sends Report and Proposals, and wakes
// watchers with Notify; also when the method returned an error. Nothing is called back and no I/O is done under the
// replica's lock.
//
// # Appends
//
// An append is validated outside the lock, then ordered inside: it gets its
// offsets and its place in a queue, and its sequence number is checked against
// what was written and what is queued before it. The first caller that finds no
// writer becomes the writer for everyone that queues behind it. Log end and
// producer state advance after the write. If a write fails, all that is queued
// fails and the replica goes offline.
//
// Whoever changes the log holds the writer's token. Metadata that arrives
// meanwhile is adopted when the token is given back, so that a record of one
// leader epoch can never land behind the start of the next.
//
// # Followers
//
// A fetch response is applied only if leader, epoch, position and generation
// are still those of its request. The log is cut only on the current leader's
// answer in the same epoch, never below the high watermark. A durable end is
// reported only after a response of this epoch was applied.
//
// # Reads
//
// Consumers read committed and durable records from any replica. A follower
// that cannot serve an offset, or is too far behind in time, answers with no
// records and the leader as preferred replica.
package partition

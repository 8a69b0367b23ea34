// Package client is the Go client of Tailrace. It speaks the Kafka protocol
// only, so it works against any Kafka-compatible cluster, and it knows nothing
// of the server.
//
// The protocol core is franz-go's kgo and kadm. This package adds what they
// leave to the caller:
//
//   - a [Consumer] over explicitly assigned partitions that reads from the
//     replica a [ReplicaPolicy] chooses: the leader, the nearest by rack
//     (KIP-392), any replica, or one given broker;
//   - an iterator over records that stops at an exact offset, reports
//     truncation as [DataLossError] and never skips an offset silently;
//   - a [Producer] that is idempotent unless told otherwise, with synchronous,
//     asynchronous and batch calls;
//   - an [Admin] whose answers are plain structs, and errors that can be told
//     apart with errors.Is: see [ErrNotFound] and its siblings.
//
// Every call takes a context and returns when it ends. A Client, Producer and
// Admin are safe for concurrent use; a Consumer has one reader at a time.
package client

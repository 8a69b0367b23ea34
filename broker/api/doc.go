// Package api answers Kafka requests: one file per API key, named by number
// and name. It decodes with kmsg after its own bounded walk over the bytes,
// and reaches the rest of the broker through [Backend] and [Replica] only.
//
// # Life of a request
//
//	wire.Request → Server.Serve   on the connection's reading goroutine
//	  Keys                        is the key advertised on this listener, the version in range, the size in its limit?
//	  guard                       counts, lengths, tags and memory are bounded before anything is allocated
//	  authorize                   principal and listener against the key's entry
//	  handler                     answers now, or keeps the request and answers later
//
// Nothing here blocks the reading goroutine: a produce is answered by the
// completions of its partitions, a fetch without enough data is parked, and
// administrative requests run on their own bounded goroutines. Each request
// is answered exactly once on every path, panics included.
//
// # Lifetime of bytes
//
// Decoded strings and record bytes alias the request body, which is valid until
// the request is answered. Whatever outlives the answer is cloned.
package api

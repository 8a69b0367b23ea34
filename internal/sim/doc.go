// Package sim runs a whole cluster on one goroutine: the real replication
// state machine, replicas, logs, metadata quorum, hosts and fetch sessions over
// a simulated network, disks and clocks. One seeded queue of events decides
// everything, so a seed replays a run bit for bit. After every event the
// invariants of a replicated log are checked, each under its name (see
// oracle.go); at the end the cluster is healed, everything is read back from
// every replica, and the clients' history is judged.
//
// What is modelled instead of run: sockets, goroutines, Pebble (by
// segment.ModelCatalog) and the random election timeouts of raft (by the
// schedule).
package sim

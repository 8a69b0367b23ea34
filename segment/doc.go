// Package segment keeps the logs of partitions in a data directory: record
// batches in segment files, and everything about them in one catalog.
//
// # Layout
//
//	<dir>/catalog/                                      one Pebble database
//	<dir>/journal/<id>.journal                          commit groups of few bytes
//	<dir>/segments/<topic id>/<partition>/<id>.log      batches back to back
//	<dir>/quarantine/                                   files that nothing lists
//
// A segment file is nothing but Kafka record batches (format v2) as the
// producer sent them, with base offset and leader epoch stamped in place. So a
// range of a log goes from file to socket by sendfile, and replicas' files are
// equal. Everything else is in the catalog, which alone says what exists; its
// keys and values are described in docs/formats.md.
//
// # What is durable when
//
// Append writes to the page cache at once; reads never look elsewhere. Commit
// makes everything appended before it durable, for all logs together:
//
//   - a small group goes, as bytes, into the journal with one sync; its segments
//     are synced lazily (Maintain), and the group retired in the very batch of
//     the catalog that says so; a journal file is used again after that;
//   - a large group is synced in its segment files, several at a time, while
//     one catalog batch makes the durable marks of the group before durable.
//
// A mark says: up to this position of this segment, bytes are on stable storage
// in the file. It never lags the last acknowledged byte by more than the group
// in flight. A segment is listed in the catalog before its file exists; the
// commit that acknowledges its first byte syncs the catalog, so that an
// acknowledged byte is always in a listed file.
//
// # Recovery
//
// Recovery reads only what lies past the mark. There, the journal is replayed
// into the file, valid batches are kept (they may have been acknowledged),
// written again and committed before Open returns; garbage behind them is a
// torn tail: the segment is sealed before it and the replica says TornTail. At
// or below the mark anything wrong is corruption: nothing is cut, the range is
// not served, the replica says Damaged or Missing until Repair.
//
// # Rules
//
//   - Bytes below the log end are never overwritten. Truncation commits a new
//     end, seals the segment and starts another; repair writes a new file.
//   - A failed sync is final: the directory is poisoned, nothing more is
//     acknowledged, the process ends (fsync errors are reported once and the
//     pages marked clean, see Rebello et al., USENIX ATC 2020).
//   - A file that the catalog does not list is quarantined, never unlinked,
//     unless a synced tombstone names its id. Ids are never used twice.
//   - A file with unsynced bytes is never closed.
//   - No I/O under a lock that reads or commits take.
//
// # Locks
//
// Store.flushing, then Log.write, then Log.structure, then Store.commitMu, then Store.mu, then
// Log.mu; handles.mu and tailCache.mu are leaves. Log.mu and Store.mu are held
// for moments and never over I/O.
package segment

package control

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// raftLog is the raft log on the catalog: the entries since the last snapshot
// are also in memory, where raft reads them. Everything of one Ready becomes
// durable in one synced batch; the first error is final.
//
//	<prefix>e<index>  entry       <prefix>h  hard state
//	<prefix>s         snapshot    <prefix>i  last own incarnation
type raftLog struct {
	*raft.MemoryStorage
	kv     segment.KV
	prefix []byte
	bytes  int // of the entries in memory
	failed error
	stored *pb.Snapshot // as opened; nil if there was none
	// current makes a snapshot of what is applied now, for a peer that needs
	// one: the stored one may be older than the peer's membership.
	current func() (*pb.Snapshot, error)
}

// Snapshot implements raft.Storage.
func (l *raftLog) Snapshot() (*pb.Snapshot, error) {
	if l.current != nil {
		return l.current()
	}
	return l.MemoryStorage.Snapshot()
}

func (l *raftLog) key(kind byte, index ...uint64) []byte {
	k := append(slices.Clone(l.prefix), kind)
	for _, i := range index {
		k = binary.BigEndian.AppendUint64(k, i)
	}
	return k
}

// openRaftLog reads the log back. An empty keyspace stays empty.
func openRaftLog(kv segment.KV, prefix []byte) (*raftLog, error) {
	l := &raftLog{MemoryStorage: raft.NewMemoryStorage(), kv: kv, prefix: prefix}
	if err := l.loadSnapshot(); err != nil {
		return nil, err
	}
	if err := l.loadEntries(); err != nil {
		return nil, err
	}
	return l, l.loadHardState()
}

func (l *raftLog) loadHardState() error {
	hs := &pb.HardState{}
	found, err := l.load(l.key('h'), hs)
	if err != nil || !found {
		return err
	}
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if hs.GetCommit() > last {
		return fmt.Errorf("control: metadata log ends at %d, below its commit index %d", last, hs.GetCommit())
	}
	hs.Commit = new(max(hs.GetCommit(), first-1)) // a commit index alone is not synced
	return l.SetHardState(hs)
}

func (l *raftLog) load(key []byte, m proto.Message) (bool, error) {
	v, err := l.kv.Get(key)
	if errors.Is(err, segment.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		err = proto.Unmarshal(v, m)
	}
	if err != nil {
		return false, fmt.Errorf("control: metadata key %x: %w", key, err)
	}
	return true, nil
}

func (l *raftLog) loadSnapshot() error {
	s := &pb.Snapshot{}
	found, err := l.load(l.key('s'), s)
	if err != nil || !found {
		return err
	}
	l.stored = s
	return l.ApplySnapshot(bare(s))
}

// bare is a snapshot without its image, which is not kept twice in memory.
func bare(s *pb.Snapshot) *pb.Snapshot { return &pb.Snapshot{Metadata: s.GetMetadata()} }

func (l *raftLog) loadEntries() error {
	first, _ := l.FirstIndex()
	var entries []*pb.Entry
	var bad error
	err := l.kv.Scan(l.key('e', first), l.key('e'+1), func(k, v []byte) bool {
		e := &pb.Entry{}
		if bad = proto.Unmarshal(v, e); bad != nil {
			bad = fmt.Errorf("control: metadata key %x: %w", k, bad)
			return false
		}
		if want := first + uint64(len(entries)); e.GetIndex() != want {
			bad = fmt.Errorf("control: metadata entry %d is missing, found %d", want, e.GetIndex())
			return false
		}
		entries = append(entries, e)
		l.bytes += len(v)
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	return l.Append(entries)
}

// found writes the state with which every founder begins: a snapshot of the
// empty image at index 1, with the voters.
func (l *raftLog) found(img *Image, voters []uint64) error {
	img.Index = 1
	img.Voters = slices.Clone(voters)
	slices.Sort(img.Voters)
	s := &pb.Snapshot{Data: EncodeImage(img), Metadata: &pb.SnapshotMetadata{
		Index: new(uint64(1)), Term: new(uint64(1)), ConfState: &pb.ConfState{Voters: img.Voters}}}
	hs := &pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1)), Vote: new(uint64(0))}
	l.stored = s
	return l.persist(raft.Ready{Snapshot: s, HardState: hs, MustSync: true})
}

// persist makes a Ready durable, before any of its messages is sent.
func (l *raftLog) persist(rd raft.Ready) error {
	if l.failed != nil {
		return l.failed
	}
	if err := l.write(rd); err != nil {
		l.failed = fmt.Errorf("control: metadata log: %w", err)
		return l.failed
	}
	return nil
}

func (l *raftLog) write(rd raft.Ready) error {
	var b segment.KVBatch
	hasSnap := !raft.IsEmptySnap(rd.Snapshot)
	if hasSnap {
		if err := set(&b, l.key('s'), rd.Snapshot); err != nil {
			return err
		}
		b.DeleteRange(l.key('e'), l.key('e'+1))
	}
	if n := len(rd.Entries); n > 0 {
		for _, e := range rd.Entries {
			if err := set(&b, l.key('e', e.GetIndex()), e); err != nil {
				return err
			}
			l.bytes += len(e.GetData())
		}
		b.DeleteRange(l.key('e', rd.Entries[n-1].GetIndex()+1), l.key('e'+1))
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		if err := set(&b, l.key('h'), rd.HardState); err != nil {
			return err
		}
	}
	if len(b.Ops) > 0 {
		if err := l.kv.Apply(&b, rd.MustSync || hasSnap); err != nil {
			return err
		}
	}
	return l.remember(rd, hasSnap)
}

func (l *raftLog) remember(rd raft.Ready, hasSnap bool) error {
	if hasSnap {
		l.bytes = 0
		if err := l.ApplySnapshot(bare(rd.Snapshot)); err != nil {
			return err
		}
	}
	if err := l.Append(rd.Entries); err != nil {
		return err
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		return l.SetHardState(rd.HardState)
	}
	return nil
}

func set(b *segment.KVBatch, key []byte, m proto.Message) error {
	v, err := proto.Marshal(m)
	if err == nil {
		b.Set(key, v)
	}
	return err
}

// compact replaces the entries up to keep by a snapshot of img.
func (l *raftLog) compact(img *Image, cs *pb.ConfState, keep uint64) error {
	if l.failed != nil {
		return l.failed
	}
	s, err := l.CreateSnapshot(img.Index, cs, nil)
	if err != nil {
		return err
	}
	s.Data = EncodeImage(img)
	var b segment.KVBatch
	if err := set(&b, l.key('s'), s); err != nil {
		return err
	}
	first, _ := l.FirstIndex()
	if keep >= first {
		b.DeleteRange(l.key('e'), l.key('e', keep+1))
	}
	if err := l.kv.Apply(&b, true); err != nil {
		l.failed = fmt.Errorf("control: metadata log: %w", err)
		return l.failed
	}
	if keep < first {
		return nil
	}
	if err := l.Compact(keep); err != nil {
		return err
	}
	return l.recount()
}

func (l *raftLog) recount() error {
	l.bytes = 0
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first > last {
		return nil
	}
	entries, err := l.Entries(first, last+1, ^uint64(0))
	for _, e := range entries {
		l.bytes += len(e.GetData())
	}
	return err
}

// incarnation returns the last one that this storage was registered with.
func (l *raftLog) incarnation() (model.Incarnation, error) {
	v, err := l.kv.Get(l.key('i'))
	if errors.Is(err, segment.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: stored incarnation", ErrCorrupt)
	}
	return model.Incarnation(binary.BigEndian.Uint64(v)), nil
}

func (l *raftLog) saveIncarnation(i model.Incarnation) error {
	var b segment.KVBatch
	b.Set(l.key('i'), binary.BigEndian.AppendUint64(nil, uint64(i)))
	return l.kv.Apply(&b, true)
}

// RaftIDFor derives the raft id of a storage: its first eight bytes. A wiped
// disk is therefore another member of the quorum, which has promised nothing.
func RaftIDFor(s model.StorageID) uint64 {
	id := binary.BigEndian.Uint64(s[:8])
	if id == raft.None || raft.IsLocalMsgTarget(id) {
		id = 1
	}
	return id
}

// FoundingClusterID derives a cluster's id from the raft ids of its founders:
// the same at each of them, in Kafka's form of 22 characters.
func FoundingClusterID(voters []uint64) string {
	h := sha256.New()
	for _, id := range sortedIDs(voters) {
		h.Write(binary.BigEndian.AppendUint64(nil, id))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

package control

import (
	"math"
	"slices"
	"strings"
)

// maxMs bounds durations in milliseconds such that they fit a time.Duration.
const maxMs = math.MaxInt64 / 1_000_000

const keyMinInsync = "min.insync.replicas"
const keySyncReplicas = "sync.replicas"

// topicConfigs is the catalogue of topic keys: Kafka's, with its defaults
// unless the documentation says otherwise, and ours.
var topicConfigs = sorted([]*ConfigDef{
	{"cleanup.policy", TypeList, "delete", "log.cleanup.policy", 0, "What happens to old segments: delete, compact or both; empty keeps them for ever.", listOf("delete", "compact")},
	{"retention.ms", TypeLong, "604800000", "log.retention.ms", 0, "Age, by newest timestamp, at which a segment is deleted; -1 for never.", integer(-1, maxLong)},
	{"retention.bytes", TypeLong, "-1", "log.retention.bytes", 0, "Size of a partition above which its oldest segments are deleted; -1 for no limit.", integer(-1, maxLong)},
	{"segment.bytes", TypeInt, "1073741824", "log.segment.bytes", 0, "Size at which a segment is closed and a new one begins.", integer(4096, math.MaxInt32)},
	{"segment.ms", TypeLong, "604800000", "log.roll.ms", 0, "Age at which a segment is closed even if it is small.", integer(1, maxLong)},
	{"segment.jitter.ms", TypeLong, "0", "log.roll.jitter.ms", 0, "Accepted for compatibility; segments roll without jitter.", integer(0, maxLong)},
	{"segment.index.bytes", TypeInt, "10485760", "log.index.size.max.bytes", 0, "Accepted for compatibility; indexes live in the catalog and have no fixed size.", integer(4, math.MaxInt32)},
	{"index.interval.bytes", TypeInt, "4096", "log.index.interval.bytes", 0, "Accepted for compatibility; the index block size is fixed.", integer(0, math.MaxInt32)},
	{"file.delete.delay.ms", TypeLong, "60000", "log.segment.delete.delay.ms", 0, "Accepted for compatibility; a deleted file goes when its last reader is done.", integer(0, maxLong)},
	{"preallocate", TypeBool, "false", "log.preallocate", 0, "Accepted for compatibility; files are not preallocated.", boolean},
	{"max.message.bytes", TypeInt, "1048588", "message.max.bytes", 0, "Largest record batch that is accepted, after compression.", integer(0, math.MaxInt32)},
	{keyMinInsync, TypeInt, "2", keyMinInsync, 0, "Least size of the committed in-sync set at which produces are accepted; 1 at replication factor 1.", integer(1, math.MaxInt16)},
	{"unclean.leader.election.enable", TypeBool, "false", "", 0, "Always false: an unclean election needs an explicit command.", oneOf("false")},
	{"compression.type", TypeString, "producer", "compression.type", 0, "Batches are stored as the producer sent them, whatever is set here.", oneOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")},
	{"compression.gzip.level", TypeInt, "-1", "compression.gzip.level", 0, "Accepted for compatibility; the broker does not recompress.", integer(-1, 9)},
	{"compression.lz4.level", TypeInt, "9", "compression.lz4.level", 0, "Accepted for compatibility; the broker does not recompress.", integer(1, 17)},
	{"compression.zstd.level", TypeInt, "3", "compression.zstd.level", 0, "Accepted for compatibility; the broker does not recompress.", integer(-131072, 22)},
	{"message.timestamp.type", TypeString, "CreateTime", "log.message.timestamp.type", 0, "Whether records carry the producer's time or that of the append.", oneOf("CreateTime", "LogAppendTime")},
	{"message.timestamp.before.max.ms", TypeLong, "9223372036854775807", "log.message.timestamp.before.max.ms", 0, "How far a record's timestamp may lie in the past.", integer(0, maxLong)},
	{"message.timestamp.after.max.ms", TypeLong, "3600000", "log.message.timestamp.after.max.ms", 0, "How far a record's timestamp may lie in the future.", integer(0, maxLong)},
	{"message.timestamp.difference.max.ms", TypeLong, "9223372036854775807", "", 0, "Accepted and ignored; removed from the protocol's reference broker.", integer(0, maxLong)},
	{"message.format.version", TypeString, "3.0-IV1", "", 0, "Accepted and ignored; records are always stored in format 2.", nil},
	{"message.downconversion.enable", TypeBool, "true", "", 0, "Accepted and ignored; records are never converted.", boolean},
	{"min.cleanable.dirty.ratio", TypeDouble, "0.5", "log.cleaner.min.cleanable.ratio", 0, "Share of a log that must be uncleaned before it is compacted.", ratio},
	{"min.compaction.lag.ms", TypeLong, "0", "log.cleaner.min.compaction.lag.ms", 0, "Age below which a record is not compacted away.", integer(0, maxLong)},
	{"max.compaction.lag.ms", TypeLong, "9223372036854775807", "log.cleaner.max.compaction.lag.ms", 0, "Age at which a record is compacted at the latest.", integer(1, maxLong)},
	{"delete.retention.ms", TypeLong, "86400000", "log.cleaner.delete.retention.ms", 0, "How long the tombstones of a compacted topic stay.", integer(0, maxLong)},
	{"flush.messages", TypeLong, "9223372036854775807", "log.flush.interval.messages", 0, "Accepted for compatibility; every acknowledged record is on stable storage.", integer(1, maxLong)},
	{"flush.ms", TypeLong, "9223372036854775807", "log.flush.interval.ms", 0, "Accepted for compatibility; every acknowledged record is on stable storage.", integer(0, maxLong)},
	{"remote.storage.enable", TypeBool, "false", "", 0, "Always false: there is no tiered storage.", oneOf("false")},
	{"remote.log.copy.disable", TypeBool, "false", "", 0, "Accepted and ignored; there is no tiered storage.", boolean},
	{"remote.log.delete.on.disable", TypeBool, "false", "", 0, "Accepted and ignored; there is no tiered storage.", boolean},
	{"local.retention.ms", TypeLong, "-2", "log.local.retention.ms", 0, "Accepted for compatibility; everything is local.", integer(-2, maxLong)},
	{"local.retention.bytes", TypeLong, "-2", "log.local.retention.bytes", 0, "Accepted for compatibility; everything is local.", integer(-2, maxLong)},
	{"leader.replication.throttled.replicas", TypeList, "", "", 0, "Replicas (partition:broker, or *) whose leader side is throttled.", throttledReplicas},
	{"follower.replication.throttled.replicas", TypeList, "", "", 0, "Replicas (partition:broker, or *) whose follower side is throttled.", throttledReplicas},

	{keySyncReplicas, TypeString, "all", keySyncReplicas, 0, "Target size of the synchronous set: all, or a number of replicas including the leader.", allOrCount},
	{"acks.floor", TypeString, "all", "acks.floor", 0, "Least acknowledgement of a produce: all waits for the in-sync set also for acks=1; client honours acks=1.", oneOf("all", "client")},
	{"replica.read.max.lag.ms", TypeLong, "5000", "replica.read.max.lag.ms", 0, "A replica further behind its leader than this redirects consumers to it.", integer(0, maxMs)},
	{"sync.stall.ms", TypeLong, "200", "sync.stall.ms", 0, "Stall of a synchronous follower after which a caught-up asynchronous one takes its place.", integer(1, maxMs)},
})

func sorted(defs []*ConfigDef) []*ConfigDef {
	slices.SortFunc(defs, func(a, b *ConfigDef) int { return strings.Compare(a.Name, b.Name) })
	return defs
}

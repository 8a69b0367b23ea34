package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/isr"
)

// metrics collects a node's figures when they are asked for, so that keeping
// them costs nothing on the hot path.
type metrics struct {
	b        *Broker
	registry *prometheus.Registry
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tailrace_"+name, help, labels, nil)
}

var (
	descAppended    = desc("log_appended_bytes_total", "Bytes appended to logs.")
	descJournaled   = desc("log_journaled_bytes_total", "Bytes made durable through the journal.")
	descCommits     = desc("log_commits_total", "Group commits.")
	descCatalogSync = desc("catalog_syncs_total", "Synced writes of the catalog.")
	descJournalSync = desc("journal_syncs_total", "Groups written to the journal and synced.")
	descWholeSync   = desc("filesystem_syncs_total", "Lazy syncs of the whole file system (syncfs).")
	descFileSync    = desc("segment_syncs_total", "fdatasync calls on segment files.")
	descOpenFiles   = desc("segment_open_files", "Open segment files.")
	descLogs        = desc("logs", "Logs in the data directory.")
	descCache       = desc("tail_cache_bytes", "Bytes of recent batches in memory.")
	descFree        = desc("disk_free_bytes", "Free space of the data directory's file system.")
	descLeaders     = desc("partitions_led", "Partitions that this broker leads.")
	descUnder       = desc("partitions_under_replicated", "Led partitions with fewer in-sync members than replicas.")
	descOffline     = desc("replicas_failed", "Replicas that an error of their log took offline.")
	descDamaged     = desc("replicas_damaged", "Replicas with ranges that await repair.")
	descConnections = desc("kafka_connections", "Open connections of the Kafka listener.")
	descLease       = desc("lease_valid", "1 while this broker is in contact with the metadata quorum.")
	descController  = desc("controller", "1 while this broker leads the metadata quorum.")
	descScrubbed    = desc("scrubbed_bytes_total", "Stored bytes checked by the scrubber.")
	descPasses      = desc("scrub_passes_total", "Passes of the scrubber over all logs.")
	descRepairBytes = desc("repair_fetched_bytes_total", "Bytes taken from other replicas to replace damaged ones.")
	descRepairFails = desc("repair_failures_total", "Attempts to replace a damaged range that failed.")
	descIndex       = desc("metadata_applied_index", "Metadata index that the replicas have acted on.")
)

func newMetrics(b *Broker) *metrics {
	m := &metrics{b: b, registry: event.NewRegistry()}
	m.registry.MustRegister(m)
	return m
}

// Describe implements prometheus.Collector; the metrics are unchecked.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	b := m.b
	counter := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	s := b.store.Stats()
	counter(descAppended, s.BytesAppended)
	counter(descJournaled, s.BytesJournaled)
	counter(descCommits, s.Commits)
	counter(descCatalogSync, s.CatalogSyncs)
	counter(descJournalSync, s.JournalSyncs)
	counter(descWholeSync, s.WholeSyncs)
	counter(descFileSync, s.FileSyncs)
	gauge(descOpenFiles, s.OpenFiles)
	gauge(descLogs, s.Logs)
	gauge(descCache, s.CacheBytes)
	if free, _, err := b.store.FreeSpace(); err == nil {
		gauge(descFree, free)
	}
	var led, under, failed, damaged int64
	for _, r := range b.host.Replicas() {
		st := r.Status()
		if st.Role == isr.Leader {
			led++
			if p := b.Image().Partition(st.TP); p != nil && len(p.ISR) < len(p.Replicas) {
				under++
			}
		}
		if st.Err != nil {
			failed++
		}
		if len(st.Damaged) > 0 {
			damaged++
		}
	}
	gauge(descLeaders, led)
	gauge(descUnder, under)
	gauge(descOffline, failed)
	gauge(descDamaged, damaged)
	counter(descScrubbed, b.scrubber.bytes.Load())
	counter(descPasses, b.scrubber.passes.Load())
	counter(descRepairBytes, b.repair.fetched.Load())
	counter(descRepairFails, b.repair.failures.Load())
	gauge(descConnections, int64(b.kafka.Connections()))
	gauge(descLease, boolInt(b.LeaseValid()))
	gauge(descController, boolInt(b.node.IsController()))
	gauge(descIndex, int64(b.applier.applied()))
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

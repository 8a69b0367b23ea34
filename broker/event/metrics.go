package event

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a node's own registry, so that several nodes live in one
// process, with the runtime's and the process's metrics.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Metrics is a Listener that counts events.
type Metrics struct {
	events   *prometheus.CounterVec
	closed   *prometheus.CounterVec
	poisoned prometheus.Gauge
	diskLow  prometheus.Gauge
	fenced   prometheus.Counter
	damaged  prometheus.Counter
	repaired prometheus.Counter
}

// NewMetrics registers the metrics of events with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tailrace", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tailrace", Name: name, Help: help})
	}
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tailrace", Name: "events_total", Help: "Events by name.",
		}, []string{"event"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tailrace", Name: "connections_closed_total", Help: "Closed connections by listener; faulty ones broke a rule or the network failed.",
		}, []string{"listener", "kind"}),
		poisoned: gauge("poisoned", "1 once a write or sync of the data directory failed."),
		diskLow:  gauge("disk_low", "1 while free space is below the reserve."),
		fenced:   counter("brokers_fenced_total", "Brokers seen fenced."),
		damaged:  counter("damaged_ranges_total", "Ranges of stored records found damaged."),
		repaired: counter("repaired_ranges_total", "Damaged ranges replaced from another replica."),
	}
	r.MustRegister(m.events, m.closed, m.poisoned, m.diskLow, m.fenced, m.damaged, m.repaired)
	return m
}

// On implements Listener.
func (m *Metrics) On(e Event) {
	m.events.WithLabelValues(e.Info().Name).Inc()
	switch e := e.(type) {
	case ConnectionClosed:
		kind := "faulty"
		if e.Ordinary {
			kind = "ordinary"
		}
		m.closed.WithLabelValues(e.Listener, kind).Inc()
	case Poisoned:
		m.poisoned.Set(1)
	case DiskLow:
		m.diskLow.Set(1)
	case DiskRecovered:
		m.diskLow.Set(0)
	case Fenced:
		m.fenced.Inc()
	case CorruptionFound:
		m.damaged.Inc()
	case Repaired:
		m.repaired.Inc()
	}
}

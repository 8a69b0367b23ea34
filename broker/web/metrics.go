package web

import "github.com/prometheus/client_golang/prometheus"

// metrics of the tails.
type metrics struct {
	open    prometheus.Gauge
	cut     prometheus.Counter
	records prometheus.Counter
	bytes   prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tailrace", Subsystem: "web", Name: name, Help: help})
	}
	return &metrics{
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tailrace", Subsystem: "web", Name: "tails", Help: "Websocket tails that are open."}),
		cut:     counter("tail_slow_readers_total", "Tails closed because their reader was too slow."),
		records: counter("tail_records_total", "Records sent to tails."),
		bytes:   counter("tail_bytes_total", "Bytes of frames sent to tails."),
	}
}

var _ prometheus.Collector = (*Server)(nil)

// Describe implements prometheus.Collector: register the server to have the
// metrics of its tails in /metrics.
func (s *Server) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{s.metrics.open, s.metrics.cut, s.metrics.records, s.metrics.bytes} {
		c.Collect(ch)
	}
}

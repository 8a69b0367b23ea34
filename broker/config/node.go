// Package config holds the settings of one node: their names, defaults, rules
// and documentation, from flags, environment and a YAML file alike.
package config

import (
	"time"

	"github.com/spf13/pflag"
)

// Node is a node's settings. The settings table documents each field.
type Node struct {
	ID  int32
	Dir string

	Kafka    string
	Internal string
	Gossip   string
	HTTP     string // "" or "off": none

	Advertise         string
	AdvertiseInternal string
	AdvertiseGossip   string
	AdvertiseHTTP     string

	Join            []string
	BootstrapExpect int
	Rack            string
	SecretFile      string
	Insecure        bool

	LogLevel  string
	LogFormat string

	MaxRequestBytes     int64
	RequestMemory       int64
	MaxInFlight         int
	MaxConnections      int
	MaxConnectionsPerIP int
	IdleTimeout         time.Duration
	DiskReserve         int64 // 0: max(1 GiB, 2 %)
	CacheBytes          int64
	ScrubBytes          int64 // a second; 0: off
	ScrubPeriod         time.Duration
	ShutdownTimeout     time.Duration
}

// Default returns the defaults.
func Default() *Node {
	n := new(Node)
	newFlagSet(n) // binding sets the defaults
	return n
}

// setting is one row of the table: the only place that knows a setting's name.
type setting struct {
	key  string // kebab-case: YAML key, flag, and TAILRACE_… in the environment
	bind func(n *Node) pflag.Value
	doc  string
}

// settings in the order of the documentation.
var settings = []setting{
	{"id", func(n *Node) pflag.Value { return newInt(&n.ID, -1) },
		"Id of this broker, 0 or more, unique in the cluster. It belongs to the data directory for ever. Required."},
	{"dir", func(n *Node) pflag.Value { return newString(&n.Dir, "") },
		"Data directory; created if absent. Required."},
	{"kafka", func(n *Node) pflag.Value { return newString(&n.Kafka, "127.0.0.1:9092") },
		"Address that Kafka clients connect to."},
	{"internal", func(n *Node) pflag.Value { return newString(&n.Internal, "127.0.0.1:9192") },
		"Address for requests between brokers."},
	{"gossip", func(n *Node) pflag.Value { return newString(&n.Gossip, "127.0.0.1:7946") },
		"Address for gossip between brokers, UDP and TCP."},
	{"http", func(n *Node) pflag.Value { return newString(&n.HTTP, "127.0.0.1:8080") },
		"Address of the console, the HTTP API, metrics and health; `off` for none."},
	{"join", func(n *Node) pflag.Value { return newList(&n.Join) },
		"Gossip addresses of brokers of the cluster, comma-separated. They may be down, and may include this broker; they are retried for ever."},
	{"bootstrap-expect", func(n *Node) pflag.Value { return newInt(&n.BootstrapExpect, 0) },
		"Number of brokers that found the cluster together, the same on each. Ignored once there is a cluster, so that one command line serves every start. 0 only ever joins."},
	{"rack", func(n *Node) pflag.Value { return newString(&n.Rack, "") },
		"Rack or zone of this broker, for placement and for reads from the nearest replica."},
	{"advertise", func(n *Node) pflag.Value { return newString(&n.Advertise, "") },
		"`host:port` that Kafka clients are told, if not the listener's address."},
	{"advertise-internal", func(n *Node) pflag.Value { return newString(&n.AdvertiseInternal, "") },
		"`host:port` of the internal listener that other brokers are told."},
	{"advertise-gossip", func(n *Node) pflag.Value { return newString(&n.AdvertiseGossip, "") },
		"`host:port` of gossip that other brokers are told."},
	{"advertise-http", func(n *Node) pflag.Value { return newString(&n.AdvertiseHTTP, "") },
		"URL of the console that tools are told, if not `http://` and the listener's address."},
	{"secret-file", func(n *Node) pflag.Value { return newString(&n.SecretFile, "") },
		"File with the secret that the cluster's brokers share: at least 16 bytes, readable by its owner only. Needed where `internal` or `gossip` leave loopback."},
	{"insecure", func(n *Node) pflag.Value { return newBool(&n.Insecure, false) },
		"Allow listeners beyond loopback without authentication."},
	{"log-level", func(n *Node) pflag.Value { return newChoice(&n.LogLevel, "info", "debug", "info", "warn", "error") },
		"Least severe level that is logged: `debug`, `info`, `warn` or `error`."},
	{"log-format", func(n *Node) pflag.Value { return newChoice(&n.LogFormat, "auto", "auto", "json", "console") },
		"`json`, `console`, or `auto`: console on a terminal, JSON otherwise."},
	{"max-request-bytes", func(n *Node) pflag.Value { return newBytes(&n.MaxRequestBytes, 100<<20) },
		"Largest request (Kafka's `socket.request.max.bytes`)."},
	{"request-memory", func(n *Node) pflag.Value { return newBytes(&n.RequestMemory, 256<<20) },
		"Memory that request bodies may take, over all connections. Beyond it connections are not read."},
	{"max-in-flight", func(n *Node) pflag.Value { return newInt(&n.MaxInFlight, 64) },
		"Requests of one connection that are handled at once; beyond it the connection is not read."},
	{"max-connections", func(n *Node) pflag.Value { return newInt(&n.MaxConnections, 16384) },
		"Connections of Kafka clients."},
	{"max-connections-per-ip", func(n *Node) pflag.Value { return newInt(&n.MaxConnectionsPerIP, 0) },
		"Connections of Kafka clients from one address; 0 for no limit of its own."},
	{"idle-timeout", func(n *Node) pflag.Value { return newDuration(&n.IdleTimeout, 10*time.Minute) },
		"A connection without requests is closed after this (Kafka's `connections.max.idle.ms`)."},
	{"disk-reserve", func(n *Node) pflag.Value { return newBytes(&n.DiskReserve, 0) },
		"Free disk space below which produce requests are refused; 0 is the larger of 1 GiB and 2 % of the disk."},
	{"cache-bytes", func(n *Node) pflag.Value { return newBytes(&n.CacheBytes, 32<<20) },
		"Memory for recent records, shared by followers and consumers."},
	{"scrub-bytes", func(n *Node) pflag.Value { return newBytes(&n.ScrubBytes, 4<<20) },
		"Stored bytes that are read and checked against their checksums each second; 0 turns that off."},
	{"scrub-period", func(n *Node) pflag.Value { return newDuration(&n.ScrubPeriod, time.Hour) },
		"Least time between the beginnings of two checks of everything that is stored."},
	{"shutdown-timeout", func(n *Node) pflag.Value { return newDuration(&n.ShutdownTimeout, 30*time.Second) },
		"How long a stop may move leaderships away and answer requests in flight."},
}

// newFlagSet binds every setting to n, set to its default.
func newFlagSet(n *Node) *pflag.FlagSet {
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	for _, s := range settings {
		f := fs.VarPF(s.bind(n), s.key, "", s.doc)
		if f.Value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

// Package web is a broker's HTTP side: live tailing of topics over websockets,
// a read-only JSON view of the cluster, the console page, metrics and health.
//
//	/                        the console
//	/v1/cluster              ClusterView: brokers and totals
//	/v1/topics               []Topic
//	/v1/topics/T             Topic
//	/v1/topics/T/tail        websocket, one text frame (Frame) a record
//	/v1/partitions[?topic=T] []Partition
//	/metrics                 Prometheus
//	/healthz                 200 while the process runs
//	/readyz                  200 when this broker can serve, 503 and the reason otherwise
//
// Nothing here changes anything: every request is a GET. Errors are JSON,
// {"error": "what is wrong and what to do"}.
//
// # Tailing
//
//	ws://host/v1/topics/T/tail?from=…&partition=…&key=…&header=…
//
// from is latest (the default), earliest, -N (the last N of each partition), an
// offset, or a time (RFC 3339, or @ and epoch milliseconds). partition may be
// given several times or as a list with commas; none means all. key=K shows
// only records with exactly that key, header=NAME or header=NAME=VALUE only
// records with such a header; all given headers must match.
//
// A tail shows committed records only, each once, in the order of offsets in a
// partition, and the same from every broker. The server closes it with
//
//	1001  the broker stops: connect again, to any broker
//	1011  the topic cannot be read on; the reason says why
//	4004  the topic was deleted
//	4008  the reader is too slow: it let a bounded queue stay full for too long
//
// # Safety of the browser
//
// A page of another site must not read a cluster through its user's browser.
// Websockets are accepted from the same host or configured origins only, a
// listener on loopback answers to loopback host names only (against DNS
// rebinding), and the console runs under a content security policy without
// inline code and puts record bytes into the page as text, never as markup.
package web

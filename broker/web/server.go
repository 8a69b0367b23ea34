package web

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed console
var consoleFiles embed.FS

// Options of a server.
type Options struct {
	// Source and Tailer are required.
	Source Source
	Tailer Tailer
	// Gatherer serves /metrics. Default prometheus.DefaultGatherer.
	Gatherer prometheus.Gatherer
	// AllowedHosts are names, beside those of loopback, that a loopback listener
	// answers to: the advertised host.
	AllowedHosts []string
	// AllowedOrigins are origins ("https://ops.example.org"), beside our own,
	// whose pages may open a tail.
	AllowedOrigins []string
	// MaxTails bounds open tails; above it new ones get 503. Default 256.
	MaxTails int
	// QueueMaxBytes bounds what waits for one reader. A single larger frame is
	// sent alone. Default 1 MiB.
	QueueMaxBytes int64
	// SlowAfter is how long a reader's queue may stay full before the reader is
	// cut. Default 5 s.
	SlowAfter time.Duration
	// CloseGrace is how long a cut reader has to take the reason. Default 5 s.
	CloseGrace time.Duration
	// PingEvery is the time between pings; a reader that answers none for three
	// of them is gone. Default 15 s.
	PingEvery time.Duration
	// OnError is told of failures that no client can be told of. May be nil.
	OnError func(error)
}

func (o *Options) ensureDefaults() {
	if o.Gatherer == nil {
		o.Gatherer = prometheus.DefaultGatherer
	}
	if o.MaxTails <= 0 {
		o.MaxTails = 256
	}
	if o.QueueMaxBytes <= 0 {
		o.QueueMaxBytes = 1 << 20
	}
	if o.SlowAfter <= 0 {
		o.SlowAfter = 5 * time.Second
	}
	if o.CloseGrace <= 0 {
		o.CloseGrace = 5 * time.Second
	}
	if o.PingEvery <= 0 {
		o.PingEvery = 15 * time.Second
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
}

// Server is a broker's HTTP server.
type Server struct {
	options  Options
	handler  http.Handler
	http     *http.Server
	loopback atomic.Bool // the listener is bound to loopback: check Host

	stopping context.Context // ends when Shutdown begins
	stop     context.CancelFunc
	places   chan struct{} // one token per open tail
	metrics  *metrics
	tails    sync.WaitGroup
}

// New makes a server; Serve starts it.
func New(o Options) (*Server, error) {
	if o.Source == nil || o.Tailer == nil {
		return nil, errors.New("web: Source and Tailer are required")
	}
	o.ensureDefaults()
	s := &Server{options: o, places: make(chan struct{}, o.MaxTails), metrics: newMetrics()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	files, err := fs.Sub(consoleFiles, "console")
	if err != nil {
		return nil, err
	}
	s.handler = secure(s.knownHost(readOnly(s.routes(files))))
	s.http = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	return s, nil
}

func (s *Server) routes(files fs.FS) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(files))
	mux.Handle("/metrics", promhttp.HandlerFor(s.options.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("/readyz", s.readyz)
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "no such resource: see /v1/cluster, /v1/topics, /v1/topics/T, /v1/topics/T/tail, /v1/partitions")
	})
	mux.HandleFunc("/v1/cluster", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, clusterView(s.options.Source.View(), s.options.Source.Ready()))
	})
	mux.HandleFunc("/v1/topics", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, orEmpty(s.options.Source.View().Topics))
	})
	mux.HandleFunc("/v1/topics/{topic}", s.topic)
	mux.HandleFunc("/v1/topics/{topic}/tail", s.tail)
	mux.HandleFunc("/v1/partitions", func(w http.ResponseWriter, r *http.Request) {
		reply(w, partitionsOf(s.options.Source.View().Topics, r.URL.Query().Get("topic")))
	})
	return mux
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.options.Source.Ready(); err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	plain(w, http.StatusOK, "ok")
}

func (s *Server) topic(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("topic")
	for _, t := range s.options.Source.View().Topics {
		if t.Topic == name {
			reply(w, t)
			return
		}
	}
	fail(w, http.StatusNotFound, "there is no topic "+name)
}

// Handler serves the same as Serve, without a listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on ln until Shutdown, then returns nil. On a loopback listener
// only loopback host names and AllowedHosts are answered.
func (s *Server) Serve(ln net.Listener) error {
	if a, ok := ln.Addr().(*net.TCPAddr); ok && a.IP.IsLoopback() {
		s.loopback.Store(true)
	}
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops accepting, tells every tail to go elsewhere, and returns when
// all handlers have ended or ctx has.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	done := make(chan struct{})
	go func() {
		s.tails.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}

func reply(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// A client that went away cannot be told anything.
	_, _ = w.Write(append(body, '\n'))
}

// fail answers with an error as JSON.
func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

func plain(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(message + "\n"))
}

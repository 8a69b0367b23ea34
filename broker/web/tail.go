package web

import (
	"context"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/semaphore"

	"github.com/tailrace/tailrace/client"
)

// Close codes of a tail beside those of RFC 6455.
const (
	CloseTopicDeleted = 4004
	CloseSlowReader   = 4008
)

// openTimeout bounds finding out where a tail starts.
const openTimeout = 5 * time.Second

var (
	errSlow = errors.New("slow reader")
	errGone = errors.New("reader is gone")
)

// tail serves /v1/topics/{topic}/tail. Everything that can be refused is
// refused as HTTP, before the upgrade.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	q, err := parseTailQuery(r.URL.RawQuery)
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, err.Error())
		return
	case !s.originAllowed(r):
		fail(w, http.StatusForbidden, "pages of this origin may not tail: configure it as allowed")
		return
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, "too many tails are open on this broker: use another or try again")
		return
	}
	t, err := s.open(r, q)
	if err != nil {
		status, message := refusal(err)
		fail(w, status, message)
		return
	}
	defer t.Close()
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		fail(w, http.StatusUpgradeRequired, "a tail is a websocket: use logctl tail, websocat or the console")
		return
	}
	s.tails.Add(1)
	defer s.tails.Done()
	s.metrics.open.Inc()
	defer s.metrics.open.Dec()
	// No compression: it would cost the broker more than the reader gains, and
	// is a way to make a server work.
	up := websocket.Upgrader{
		HandshakeTimeout: openTimeout, WriteBufferSize: 16 << 10,
		CheckOrigin: func(*http.Request) bool { return true }, // checked above
	}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	s.stream(conn, t, q.filter)
}

func (s *Server) open(r *http.Request, q tailQuery) (Tail, error) {
	ctx, cancel := context.WithTimeout(r.Context(), openTimeout)
	defer cancel()
	return s.options.Tailer.Tail(ctx, TailRequest{Topic: r.PathValue("topic"), Partitions: q.partitions, From: q.from})
}

// refusal maps an error of opening a tail to an HTTP answer.
func refusal(err error) (int, string) {
	var oor *client.OffsetOutOfRangeError
	switch {
	case errors.Is(err, client.ErrNotFound):
		return http.StatusNotFound, err.Error()
	case errors.As(err, &oor):
		return http.StatusRequestedRangeNotSatisfiable, err.Error()
	case errors.Is(err, client.ErrInvalid):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, client.ErrDenied):
		return http.StatusForbidden, err.Error()
	case errors.Is(err, client.ErrUnavailable):
		return http.StatusServiceUnavailable, err.Error()
	}
	return http.StatusInternalServerError, err.Error()
}

// stream sends records until the reader leaves or is cut, the tail fails, or
// the server stops; then it says which and closes.
//
// Three goroutines: this one moves records into the queue, one writes frames
// from it, one reads what the peer sends (pongs and its close).
func (s *Server) stream(conn *websocket.Conn, t Tail, f filter) {
	ctx, cancel := context.WithCancelCause(s.stopping)
	defer cancel(nil)
	q := newQueue(s.options.QueueMaxBytes)

	written := make(chan struct{})
	go func() {
		defer close(written)
		cancel(s.write(ctx, conn, q))
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		cancel(s.listen(conn))
	}()

	err := s.pump(ctx, t, f, q)
	cause := context.Cause(ctx)
	cancel(nil) // the writer stops after the frame that it is in
	code, reason := closing(err, cause)
	if code == CloseSlowReader {
		s.metrics.cut.Inc()
	}
	if code != 0 {
		s.farewell(conn, code, reason, gone)
	}
	// Closing the connection ends whatever is still blocked on it.
	_ = conn.Close()
	<-written
	<-gone
}

// pump moves matching records from the tail into the queue.
func (s *Server) pump(ctx context.Context, t Tail, f filter, q *queue) error {
	for r, err := range t.Records(ctx) {
		if err != nil {
			return err
		}
		if !f.match(r) {
			continue
		}
		frame, err := encodeFrame(r)
		if err != nil {
			return err
		}
		if err := q.put(ctx, frame, s.options.SlowAfter); err != nil {
			return err
		}
	}
	return nil
}

// closing chooses the close code for the end of a tail; 0 means that nobody is
// there to be told.
func closing(err, cause error) (int, string) {
	switch {
	case errors.Is(cause, errGone):
		return 0, ""
	case errors.Is(err, errSlow):
		return CloseSlowReader, "too slow: the queue for this reader stayed full; read faster, filter, or tail fewer partitions"
	case errors.Is(cause, context.Canceled):
		return websocket.CloseGoingAway, "this broker is stopping: connect again"
	case errors.Is(err, client.ErrNotFound):
		return CloseTopicDeleted, "the topic was deleted"
	case err != nil:
		return websocket.CloseInternalServerErr, err.Error()
	}
	return websocket.CloseNormalClosure, "end of the topic"
}

// farewell sends a close frame behind the frame that is being written, if the
// reader takes it in time, and waits for the reader to answer it: closing at
// once could throw the reason away together with unread data.
func (s *Server) farewell(conn *websocket.Conn, code int, reason string, gone <-chan struct{}) {
	until := time.Now().Add(s.options.CloseGrace)
	message := websocket.FormatCloseMessage(code, clip(reason, 123))
	if err := conn.WriteControl(websocket.CloseMessage, message, until); err != nil {
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
	}
}

// clip cuts a reason to what a control frame can carry, at a rune boundary.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// write sends queued frames and pings until ctx ends.
func (s *Server) write(ctx context.Context, conn *websocket.Conn, q *queue) error {
	ping := time.NewTicker(s.options.PingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case frame := <-q.frames:
			err := conn.WriteMessage(websocket.TextMessage, frame)
			q.release(frame)
			if err != nil {
				return errGone
			}
			s.metrics.records.Inc()
			s.metrics.bytes.Add(float64(len(frame)))
		case <-ping.C:
			if err := conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(s.options.PingEvery)); err != nil {
				return errGone
			}
		}
	}
}

// listen reads until the peer closes, is silent for three pings, or the
// connection is closed here. A tail takes no messages; what comes is dropped.
func (s *Server) listen(conn *websocket.Conn) error {
	patience := 3 * s.options.PingEvery
	conn.SetReadLimit(4 << 10)
	extend := func() error { return conn.SetReadDeadline(time.Now().Add(patience)) }
	conn.SetPongHandler(func(string) error { return extend() })
	if extend() != nil {
		return errGone
	}
	for {
		if _, _, err := conn.NextReader(); err != nil {
			return errGone
		}
	}
}

// queue holds frames for one reader, bounded in bytes and number.
type queue struct {
	frames chan []byte
	room   *semaphore.Weighted
	limit  int64
}

func newQueue(limit int64) *queue {
	return &queue{frames: make(chan []byte, 1024), room: semaphore.NewWeighted(limit), limit: limit}
}

func (q *queue) weight(frame []byte) int64 { return min(int64(len(frame)), q.limit) }

// put waits for room, and calls the reader slow if there is none in time.
func (q *queue) put(ctx context.Context, frame []byte, patience time.Duration) error {
	if q.tryPut(frame) {
		return nil
	}
	timed, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := q.room.Acquire(timed, q.weight(frame)); err != nil {
		return q.why(ctx)
	}
	select {
	case q.frames <- frame:
		return nil
	case <-timed.Done():
		q.release(frame)
		return q.why(ctx)
	}
}

func (q *queue) tryPut(frame []byte) bool {
	if !q.room.TryAcquire(q.weight(frame)) {
		return false
	}
	select {
	case q.frames <- frame:
		return true
	default:
		q.release(frame)
		return false
	}
}

func (q *queue) why(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errSlow
}

func (q *queue) release(frame []byte) { q.room.Release(q.weight(frame)) }

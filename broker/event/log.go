package event

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/tailrace/tailrace/internal/clock"
)

// NewLogger returns a logger for a node. format is "json", "console", or
// "auto": console where w is a terminal.
func NewLogger(w io.Writer, format, level string, broker int32) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level: %w", err)
	}
	if format == "console" || (format == "auto" && isTerminal(w)) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w)}
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(l).With().Timestamp().Int32("broker_id", broker).Logger(), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

const (
	// logBurst events of one name are logged in each logPeriod; more are
	// counted only, so that no client can fill a disk with log lines.
	logBurst  = 50
	logPeriod = 10 * time.Second
	// maxText bounds a logged string.
	maxText = 512
)

// Log is a Listener that writes to a logger. Every string is stripped of what
// could forge lines or drive a terminal.
type Log struct {
	logger zerolog.Logger
	clock  clock.Clock

	mu     sync.Mutex
	limits map[string]*limit
}

type limit struct {
	since      time.Duration // start of the period, Elapsed
	logged     int
	suppressed int
}

// NewLog returns a listener that logs to l.
func NewLog(l zerolog.Logger, c clock.Clock) *Log {
	return &Log{logger: l, clock: c, limits: make(map[string]*limit)}
}

// On implements Listener.
func (l *Log) On(e Event) {
	info := e.Info()
	if info.Level < l.logger.GetLevel() {
		return
	}
	suppressed, ok := l.allow(info)
	if !ok {
		return
	}
	line := l.logger.WithLevel(info.Level)
	if suppressed > 0 {
		line.Int("suppressed", suppressed)
	}
	line.Str("event", info.Name)
	addFields(line, reflect.ValueOf(e))
	line.Msg(info.Message)
}

// allow reports whether an event may be logged now, and how many of its name
// were not since the last one. Errors and audits always may.
func (l *Log) allow(info Info) (suppressed int, ok bool) {
	if info.Level >= zerolog.ErrorLevel || info.Name == "audit" {
		return 0, true
	}
	now := l.clock.Elapsed()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.limits[info.Name]
	if s == nil {
		s = &limit{since: now}
		l.limits[info.Name] = s
	}
	if now-s.since >= logPeriod {
		suppressed = s.suppressed
		*s = limit{since: now}
	}
	if s.logged >= logBurst {
		s.suppressed++
		return 0, false
	}
	s.logged++
	return suppressed, true
}

// addFields adds the event's fields; empty ones are left out.
func addFields(line *zerolog.Event, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() && f.Kind() != reflect.Int32 { // 0 is a broker and a partition
			continue
		}
		addField(line, snake(v.Type().Field(i).Name), f)
	}
}

func addField(line *zerolog.Event, name string, f reflect.Value) {
	switch v := f.Interface().(type) {
	case time.Duration:
		line.Str(name, v.Round(time.Millisecond).String())
		return
	case error:
		line.Str(name, Clean(v.Error()))
		return
	}
	switch f.Kind() {
	case reflect.String:
		line.Str(name, Clean(f.String()))
	case reflect.Bool:
		line.Bool(name, f.Bool())
	case reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		line.Int64(name, f.Int())
	case reflect.Uint64:
		line.Uint64(name, f.Uint())
	case reflect.Slice:
		ints := make([]int64, f.Len())
		for i := range ints {
			ints[i] = f.Index(i).Int()
		}
		line.Ints64(name, ints)
	}
}

// snake turns LeaderEpoch into leader_epoch and ISR into isr.
func snake(s string) string {
	var b strings.Builder
	runes := []rune(s)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || (i+1 < len(runes) && !unicode.IsUpper(runes[i+1]))) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// Clean makes a string from outside safe to print: control characters (line
// breaks, terminal escapes), invisible and direction-changing ones are escaped,
// and the length is bounded.
func Clean(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if b.Len() >= maxText {
			b.WriteString("…")
			break
		}
		switch {
		case r == unicode.ReplacementChar || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

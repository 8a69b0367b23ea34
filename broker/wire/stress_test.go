package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// residentBytes returns the process's resident memory (Linux).
func residentBytes(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc/self/statm on this system")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Announcing 100 MiB on many connections and sending one byte costs nothing.
func TestAnnouncedLengthTakesNoMemory(t *testing.T) {
	const conns = 300
	s, addr := serve(t, copyReply, Options{})
	runtime.GC()
	before := residentBytes(t)
	f := append(binary.BigEndian.AppendUint32(nil, 100<<20), 0)
	for range conns {
		write(t, dial(t, addr), f)
	}
	eventually(t, "all connected", func() bool { return s.Connections() == conns })
	time.Sleep(50 * time.Millisecond)
	if grown := residentBytes(t) - before; grown > 64<<20 {
		t.Fatalf("resident memory grew by %d MiB", grown>>20)
	}
	c := dial(t, addr) // and the next client is served
	write(t, c, frame(0, 3, 1, "", make([]byte, 1<<20)))
	readResponse(t, c)
}

// An idle connection is two goroutines and 20 KiB at most.
func TestIdleConnectionFootprint(t *testing.T) {
	const conns = 400
	s, addr := serve(t, copyReply, Options{})
	var before, after runtime.MemStats
	goroutines := runtime.NumGoroutine()
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range conns {
		c := dial(t, addr)
		write(t, c, frame(0, 3, 1, "client", []byte("x")))
		readResponse(t, c)
	}
	eventually(t, "all connected", func() bool { return s.Connections() == conns })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := runtime.NumGoroutine() - goroutines; n > 2*conns {
		t.Errorf("%d goroutines for %d connections", n, conns)
	}
	per := (int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / conns
	if !raceEnabled && per > 20<<10 { // the race detector's own memory is not ours; both ends are counted
		t.Errorf("%d bytes for each idle connection", per)
	}
}

func TestConcurrentStress(t *testing.T) {
	const clients, requests = 16, 200
	var wg sync.WaitGroup
	s, addr := serve(t, func(r *Request) {
		reply := func() {
			p := &copyablePayload{payload{b: bytes.Clone(r.Body)}}
			r.Reply(Part{Bytes: []byte{byte(len(r.ClientID))}}, Part{Payload: p})
		}
		if rand.Intn(2) == 0 {
			reply()
			return
		}
		wg.Add(1)
		go func() { defer wg.Done(); runtime.Gosched(); reply() }()
	}, Options{MaxInFlight: 8, Budget: NewBudget(1 << 20)})
	var clientsDone sync.WaitGroup
	for id := range clients {
		c := dial(t, addr)
		rnd := rand.New(rand.NewSource(int64(id)))
		sizes := make([]int, requests)
		for i := range sizes {
			sizes[i] = rnd.Intn(1 << rnd.Intn(18))
		}
		clientsDone.Add(2)
		go func() {
			defer clientsDone.Done()
			for i, n := range sizes {
				b := frame(0, 3, int32(i), fmt.Sprint("client", id%3), bytes.Repeat([]byte{byte(i ^ id)}, n))
				if _, err := c.Write(b); err != nil {
					t.Errorf("client %d: %v", id, err)
					return
				}
			}
		}()
		go func() {
			defer clientsDone.Done()
			checkEchoes(t, c, id, sizes)
		}()
	}
	clientsDone.Wait()
	wg.Wait()
	if err := shutdown(t, s, patience); err != nil {
		t.Fatal(err)
	}
}

func checkEchoes(t *testing.T, c net.Conn, id int, sizes []int) {
	for i, n := range sizes {
		b := make([]byte, 9+n)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Errorf("client %d response %d: %v", id, i, err)
			return
		}
		want := bytes.Repeat([]byte{byte(i ^ id)}, n)
		if corr := binary.BigEndian.Uint32(b[4:]); int(corr) != i || b[8] != 7 || !bytes.Equal(b[9:], want) {
			t.Errorf("client %d: response %d is wrong (correlation id %d)", id, i, corr)
			return
		}
	}
}

// Random bytes and cut frames never hurt another connection.
func TestGarbageConnections(t *testing.T) {
	s, addr := serve(t, copyReply, Options{MaxRequestBytes: 1 << 20})
	good := dial(t, addr)
	rnd := rand.New(rand.NewSource(1))
	for i := range 200 {
		b := make([]byte, rnd.Intn(64))
		rnd.Read(b)
		if i%2 == 0 { // a plausible length
			b = append(binary.BigEndian.AppendUint32(nil, uint32(10+rnd.Intn(20))), b...)
		}
		c := dial(t, addr)
		write(t, c, b)
		c.Close()
		write(t, good, frame(0, 3, int32(i), "", nil))
		if corr, _ := readResponse(t, good); corr != int32(i) {
			t.Fatalf("got %d, want %d", corr, i)
		}
	}
	eventually(t, "garbage connections closed", func() bool { return s.Connections() == 1 })
}

func FuzzParseHeader(f *testing.F) {
	f.Add(frame(0, 3, 1, "client", []byte("body"))[4:])
	f.Add(frame(3, 12, 1, "client", []byte{1, 5, 2, 'x', 'y', 'b'})[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		id, err := parseHeader(b, KafkaFlexible, &r)
		if err == nil && len(id)+len(r.Body)+10 > len(b) {
			t.Fatalf("header parts exceed the frame of %d bytes", len(b))
		}
	})
}

// pinger returns a function that sends n small requests over one connection,
// pipelined, and waits for the answers.
func pinger(t testing.TB) func(n int) {
	answer := []byte("0123456789")
	_, addr := serve(t, func(r *Request) { r.Reply(Part{Bytes: answer}) }, Options{})
	c := dial(t, addr)
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	const depth = 32
	one := frame(0, 3, 1, "client", make([]byte, 100))
	batch := bytes.Repeat(one, depth)
	answers := make([]byte, depth*(8+len(answer)))
	return func(n int) {
		for ; n > 0; n -= depth {
			k := min(depth, n)
			write(t, c, batch[:k*len(one)])
			if _, err := io.ReadFull(c, answers[:k*(8+len(answer))]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// BenchmarkRequest pipelines small requests over one connection.
func BenchmarkRequest(b *testing.B) {
	ping := pinger(b)
	b.ReportAllocs()
	b.ResetTimer()
	ping(b.N)
}

// BenchmarkLargeBody sends 1 MiB requests, as a producer does.
func BenchmarkLargeBody(b *testing.B) {
	_, addr := serve(b, func(r *Request) { r.Reply() }, Options{})
	c := dial(b, addr)
	if err := c.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	req := frame(0, 3, 1, "client", make([]byte, 1<<20))
	var answer [8]byte
	b.SetBytes(int64(len(req)))
	b.ReportAllocs()
	for b.Loop() {
		write(b, c, req)
		if _, err := io.ReadFull(c, answer[:]); err != nil {
			b.Fatal(err)
		}
	}
}

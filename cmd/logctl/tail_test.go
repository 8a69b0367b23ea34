package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fakeHTTP is a broker's HTTP interface: a tail of topic "t" that sends frames
// and then closes with a code, and a view of partitions.
type fakeHTTP struct {
	frames []string
	code   int
	reason string
	asked  chan string
}

func (f *fakeHTTP) start(t *testing.T) string {
	t.Helper()
	f.asked = make(chan string, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/topics/{topic}/tail", func(w http.ResponseWriter, r *http.Request) {
		f.asked <- r.URL.RawQuery
		if r.PathValue("topic") != "t" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintln(w, `{"error": "there is no such topic"}`)
			return
		}
		up := websocket.Upgrader{}
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for _, frame := range f.frames {
			if conn.WriteMessage(websocket.TextMessage, []byte(frame)) != nil {
				return
			}
		}
		if f.code != 0 {
			_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(f.code, f.reason), time.Now().Add(time.Minute))
		}
		// Until the peer is gone.
		_, _, _ = conn.ReadMessage()
	})
	mux.HandleFunc("/v1/partitions", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `[{"topic":"t","partition":0,"leader":0,"replicas":[
			{"broker":0,"state":"leader","log_end":9,"lag":0},
			{"broker":1,"state":"async","log_end":4,"lag":5,"suspect":true,"damaged":true}]}]`)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

var twoFrames = []string{
	`{"topic":"t","partition":1,"offset":7,"timestamp":5,"key":"k","value":"v","headers":[{"key":"a","value":"b"}]}`,
	`{"topic":"t","partition":1,"offset":8,"timestamp":6,"key":null,"value_b64":"/w==","headers":[]}`,
}

func TestTail(t *testing.T) {
	s := newShell(t)
	f := &fakeHTTP{frames: twoFrames}
	url := f.start(t)
	out := s.must("", "tail", "t", "--http", url, "--count", "2", "--format", `%t %p %o %T %k %s %h\n`, "--from", "-5", "--partition", "1,2", "--key", "", "--header", "a=b")
	if want := "t 1 7 5 k v a=b\nt 1 8 6  \xff \n"; out != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
	if q := <-f.asked; q != "from=-5&header=a%3Db&key=&partition=1&partition=2" {
		t.Errorf("asked for %s", q)
	}
	lines := strings.Split(s.must("", "tail", "t", "--http", strings.TrimPrefix(url, "http://"), "--count", "2", "-o", "json"), "\n")
	var doc map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &doc); err != nil || doc["value_b64"] != "/w==" || doc["offset"] != 8.0 {
		t.Errorf("%v %v", lines, err)
	}
}

func TestTailEnds(t *testing.T) {
	for _, c := range []struct {
		topic  string
		code   int
		reason string
		want   int
	}{
		{"t", 1000, "", exitOK},
		{"t", 1001, "this broker is stopping", exitUnavailable},
		{"t", 1011, "data loss", exitFailure},
		{"t", 4004, "the topic was deleted", exitNotFound},
		{"t", 4008, "too slow", exitFailure},
		{"nope", 0, "there is no such topic", exitNotFound},
	} {
		f := &fakeHTTP{frames: twoFrames[:1], code: c.code, reason: c.reason}
		s := newShell(t)
		_, errOut, code := s.try("", "tail", c.topic, "--http", f.start(t))
		if code != c.want || !strings.Contains(errOut, c.reason) {
			t.Errorf("%+v: exit %d, %q", c, code, errOut)
		}
	}
}

// advertise makes a fake cluster say where its HTTP interface is.
func advertise(k *kfake.Cluster, url string) {
	k.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.DescribeConfigsRequest)
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range req.Resources {
			if r.ResourceType != kmsg.ConfigResourceTypeBroker {
				return nil, nil, false
			}
			rr := kmsg.NewDescribeConfigsResponseResource()
			rr.ResourceName, rr.ResourceType = r.ResourceName, r.ResourceType
			c := kmsg.NewDescribeConfigsResponseResourceConfig()
			c.Name, c.Value = httpConfig, kmsg.StringPtr(url)
			rr.Configs = append(rr.Configs, c)
			resp.Resources = append(resp.Resources, rr)
		}
		return resp, nil, true
	})
}

func TestAdvertisedHTTP(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	f := &fakeHTTP{frames: twoFrames}
	advertise(k, f.start(t))
	s := &shell{t: t, seeds: strings.Join(k.ListenAddrs(), ",")}
	if out := s.must("", "tail", "t", "--count", "1"); out != "v\n" {
		t.Errorf("tail: %q", out)
	}

	if err := k.CreateTopic("t", 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := k.MoveTopicPartition("t", 0, 0); err != nil {
		t.Fatal(err)
	}
	var doc partitionListDoc
	if err := json.Unmarshal([]byte(s.must("", "partition", "list", "-o", "json")), &doc); err != nil {
		t.Fatal(err)
	}
	for _, r := range doc.Partitions[0].Replicas {
		switch r.Broker {
		case 0:
			if r.LogEnd != 9 || r.Lag != 0 {
				t.Errorf("leader: %+v", r)
			}
		case 1:
			if r.State != "async" || r.LogEnd != 4 || r.Lag != 5 || !r.Suspect || !r.Damaged {
				t.Errorf("follower: %+v", r)
			}
		}
	}
	if out := s.must("", "partition", "list"); !strings.Contains(out, "1:async(+5,suspect,damaged)") {
		t.Errorf("table: %q", out)
	}
}

// TestUnreachableHTTPLeavesGaps: partition list needs the Kafka protocol only.
func TestUnreachableHTTPLeavesGaps(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	advertise(k, "http://127.0.0.1:1")
	var out, errOut bytes.Buffer
	code := run([]string{"-b", k.ListenAddrs()[0], "--timeout", "60s", "partition", "list"}, nil, &out, &errOut)
	if code != exitOK || !strings.Contains(out.String(), "t      0          0") {
		t.Errorf("exit %d, %q %q", code, out.String(), errOut.String())
	}
}

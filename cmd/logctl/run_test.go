package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// shell runs logctl in-process against one fake cluster.
type shell struct {
	t     *testing.T
	seeds string
}

func newShell(t *testing.T, opts ...kfake.Opt) *shell {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return &shell{t: t, seeds: strings.Join(k.ListenAddrs(), ",")}
}

// try runs one command line, without -b, with generous time.
func (s *shell) try(stdin string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	args = append([]string{"-b", s.seeds, "--timeout", "60s"}, args...)
	code = run(args, strings.NewReader(stdin), &out, &errOut)
	return out.String(), errOut.String(), code
}

// must runs a command that has to succeed and returns its output.
func (s *shell) must(stdin string, args ...string) string {
	s.t.Helper()
	out, errOut, code := s.try(stdin, args...)
	if code != exitOK || errOut != "" {
		s.t.Fatalf("logctl %s: exit %d, stderr %q", strings.Join(args, " "), code, errOut)
	}
	return out
}

func TestCreateProduceConsume(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "2", "--replicas", "3", "--config", "retention.ms=60000")
	s.must("a:1\nb:2\nplain\n", "produce", "orders", "--key-delimiter", ":", "--header", "source=test", "--partition", "1")
	got := s.must("", "consume", "orders", "--format", `%t %p %o %k|%s|%v %K %S %h %%\n`)
	want := "orders 1 0 a|1|1 1 1 source=test %\norders 1 1 b|2|2 1 1 source=test %\norders 1 2 |plain|plain -1 5 source=test %\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	var list topicListDoc
	if err := json.Unmarshal([]byte(s.must("", "topic", "list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Topics) != 1 || list.Topics[0].Topic != "orders" || list.Topics[0].Partitions != 2 {
		t.Errorf("got %+v", list)
	}
}

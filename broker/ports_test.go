package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// TestTakenPortLeavesNothing: whichever port is taken, the error names its
// setting and no data directory is made.
func TestTakenPortLeavesNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, setting := range []string{"kafka", "internal", "gossip", "http"} {
		dir := filepath.Join(t.TempDir(), "data")
		o := Options{ID: 1, Dir: dir, Expect: 1, Logger: zerolog.Nop()}
		for name, to := range map[string]*string{"kafka": &o.Kafka, "internal": &o.Internal, "gossip": &o.Gossip, "http": &o.HTTP} {
			*to = "127.0.0.1:0"
			if name == setting {
				*to = l.Addr().String()
			}
		}
		b, err := Start(context.Background(), o)
		if err == nil {
			b.Close()
			t.Fatalf("%s: started on a taken port", setting)
		}
		if taken := new(PortError); !errors.As(err, &taken) || taken.Setting != setting || !strings.Contains(err.Error(), "--"+setting+" "+l.Addr().String()) {
			t.Errorf("%s: %v", setting, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a data directory was left behind (%v)", setting, err)
		}
	}
}

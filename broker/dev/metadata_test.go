package dev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/client"
)

// spoilt is a way to lose a file of a stopped broker.
type spoilt struct {
	name string
	do   func(t *testing.T, path string)
}

var ways = []spoilt{
	{"flipped", func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}},
	{"deleted", func(t *testing.T, path string) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}},
}

// TestSpoiltMetadata loses each file that says what a broker has, one at a
// time: node.json, the catalog, and every file of the catalog, which also holds
// the log of the metadata quorum. The broker refuses to start and says why in
// one line, or it starts and is in sync again. It never deletes records, and
// the cluster keeps all of them.
func TestSpoiltMetadata(t *testing.T) {
	r := newRig(t, noScrub)
	want := r.fill("t", 80)
	leader, _ := r.state("t")
	id := int(leader%3 + 1)
	dir := r.options[id].Dir
	r.stop(id)
	refused, synced := 0, 0
	for _, name := range []string{
		"node.json", "catalog", "catalog/*.log", "catalog/MANIFEST-*", "catalog/*.sst", "catalog/OPTIONS-*", "catalog/marker.format*", "catalog/marker.manifest*",
	} {
		for _, way := range ways {
			files := glob(t, filepath.Join(dir, name))
			if len(files) == 0 {
				t.Logf("no %s", name)
				continue
			}
			path := files[len(files)-1] // the newest
			info, err := os.Stat(path)
			if err != nil || way.name == "flipped" && (info.IsDir() || info.Size() == 0) {
				continue
			}
			kept := filepath.Join(t.TempDir(), "kept")
			if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			way.do(t, path)
			before := records(t, dir)
			err = r.start(id)
			if err == nil {
				synced++
				t.Logf("%s %s: came back", name, way.name)
				r.waitISR("t", 3)
				r.read("t", client.Broker(int32(id)), want)
				r.stop(id)
				continue
			}
			refused++
			t.Logf("%s %s: %v", name, way.name, err)
			if text := err.Error(); strings.ContainsAny(text, "\n\r") || !strings.Contains(text, dir) {
				t.Errorf("%s %s: not one line that names the directory: %q", name, way.name, text)
			}
			if after := records(t, dir); !slices.Equal(before, after) {
				t.Errorf("%s %s: records were %v, are %v", name, way.name, before, after)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(kept, dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if refused < 4 {
		t.Errorf("%d starts were refused, %d came back", refused, synced)
	}
	if err := r.start(id); err != nil {
		t.Fatal(err)
	}
	r.waitISR("t", 3)
	for id := int32(1); id <= 3; id++ {
		r.read("t", client.Broker(id), want)
	}
	r.sameBytes()
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	out, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// records lists the segment files below dir.
func records(t *testing.T, dir string) []string {
	return glob(t, filepath.Join(dir, "segments", "*", "*", "*"))
}

// Package lint checks the rules of docs/architecture.md that a compiler does
// not: which way imports point, which packages are pure, who may touch files.
package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tailrace/tailrace/"

// source is one Go file of the module.
type source struct {
	path    string // slash-separated, from the module's root
	pkg     string // directory
	test    bool
	lines   int
	imports []string
	file    *ast.File
	text    string
}

func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "tailrace-dev") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, b, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		s := source{path: rel, pkg: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"), lines: strings.Count(string(b), "\n"), file: f, text: string(b)}
		for _, im := range f.Imports {
			p, _ := strconv.Unquote(im.Path.Value)
			s.imports = append(s.imports, p)
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("only %d files found: the walk is broken", len(out))
	}
	return out
}

func under(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// TestImportDirection holds cmd, bench → broker → partition → segment, isr, and
// keeps client and logctl free of the server.
func TestImportDirection(t *testing.T) {
	forbidden := []struct{ from, to string }{
		{"isr", "segment"}, {"isr", "partition"}, {"isr", "broker"}, {"isr", "client"},
		{"segment", "isr"}, {"segment", "partition"}, {"segment", "broker"}, {"segment", "client"},
		{"partition", "broker"}, {"partition", "client"},
		{"client", "broker"}, {"client", "partition"}, {"client", "segment"}, {"client", "isr"},
		{"cmd/logctl", "broker"}, {"cmd/logctl", "partition"}, {"cmd/logctl", "segment"}, {"cmd/logctl", "isr"},
		{"internal/history", "broker"}, {"internal/history", "partition"}, {"internal/history", "segment"},
		{"broker", "bench"}, {"broker", "cmd"}, {"client", "bench"},
		{"broker/wire", "broker/api"}, {"broker/host", "broker/api"}, {"broker/replicate", "broker/api"},
	}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, im := range s.imports {
			rel, ok := strings.CutPrefix(im, module)
			if !ok {
				continue
			}
			for _, f := range forbidden {
				if under(s.pkg, f.from) && under(rel, f.to) {
					t.Errorf("%s imports %s: %s must not know %s", s.path, rel, f.from, f.to)
				}
			}
		}
	}
}

// TestSoleImporters keeps each listed library behind one door.
func TestSoleImporters(t *testing.T) {
	only := map[string][]string{
		"github.com/hashicorp/memberlist":         {"broker/member"},
		"github.com/gorilla/websocket":            {"broker/web", "cmd/logctl"},
		"github.com/cockroachdb/pebble/v2":        {"segment"},
		"go.etcd.io/raft/v3":                      {"broker/control"},
		"github.com/prometheus/client_golang":     {"broker"},
		"github.com/knadh/koanf/v2":               {"broker/config"},
		"github.com/twmb/franz-go/pkg/kgo":        {"client", "bench", "cmd/logctl", "internal"},
		"github.com/cockroachdb/pebble/v2/vfs":    {"segment", "broker/identity", "internal"},
		"github.com/twmb/franz-go/pkg/kadm":       {"client", "bench", "cmd/logctl", "internal"},
		"github.com/prometheus/client_golang/...": {"broker"},
	}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, im := range s.imports {
			doors, ok := only[im]
			if !ok {
				continue
			}
			allowed := false
			for _, d := range doors {
				allowed = allowed || under(s.pkg, d)
			}
			if !allowed {
				t.Errorf("%s imports %s, which only %v may", s.path, im, doors)
			}
		}
	}
}

// pure are packages and files that must not touch clock, randomness, network,
// files or goroutines.
func pure(s source) bool {
	if s.test {
		return false
	}
	if s.pkg == "isr" {
		return true
	}
	base := filepath.Base(s.path)
	return s.pkg == "broker/control" && (strings.HasPrefix(base, "decide") || strings.HasPrefix(base, "apply"))
}

func TestPurePackages(t *testing.T) {
	seen := 0
	for _, s := range sources(t) {
		if !pure(s) {
			continue
		}
		seen++
		for _, im := range s.imports {
			switch im {
			case "os", "net", "math/rand", "crypto/rand", "context", "sync", "log", "github.com/rs/zerolog":
				t.Errorf("%s is pure but imports %s", s.path, im)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s is pure but starts a goroutine", s.path)
			case *ast.SelectorExpr:
				// A generator seeded by the input is a function of the input.
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "rand" && n.Sel.Name != "New" && n.Sel.Name != "NewPCG" && n.Sel.Name != "NewChaCha8" && n.Sel.Name != "Rand" {
					t.Errorf("%s is pure but uses rand.%s", s.path, n.Sel.Name)
				}
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && (n.Sel.Name == "Now" || n.Sel.Name == "Since" || n.Sel.Name == "After" || n.Sel.Name == "NewTimer") {
					t.Errorf("%s is pure but calls time.%s", s.path, n.Sel.Name)
				}
			}
			return true
		})
	}
	if seen < 4 {
		t.Fatalf("only %d pure files found: the rule looks at nothing", seen)
	}
}

// noGoroutines are packages that are called and answer with effects.
func TestNoGoroutines(t *testing.T) {
	seen := 0
	for _, s := range sources(t) {
		if s.test || (s.pkg != "partition" && s.pkg != "broker/host") {
			continue
		}
		seen++
		ast.Inspect(s.file, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s starts a goroutine", s.path)
			}
			return true
		})
	}
	if seen < 4 {
		t.Fatalf("only %d files found", seen)
	}
}

// TestFilesThroughSegment: data files are opened through segment's file
// interface, so that fault wrappers and the simulator see every access.
func TestFilesThroughSegment(t *testing.T) {
	for _, s := range sources(t) {
		data := under(s.pkg, "partition") || under(s.pkg, "isr") || under(s.pkg, "broker/host") || under(s.pkg, "broker/replicate") || under(s.pkg, "broker/control")
		if s.test || !data {
			continue
		}
		for _, im := range s.imports {
			if im == "os" || im == "syscall" || im == "golang.org/x/sys/unix" {
				t.Errorf("%s imports %s: files belong to segment", s.path, im)
			}
		}
	}
}

// TestFileLength keeps files readable.
func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test && s.lines > 600 {
			t.Errorf("%s has %d lines; split it", s.path, s.lines)
		}
	}
}

// TestNoLeftovers finds unfinished work and paths of a machine.
func TestNoLeftovers(t *testing.T) {
	words := []string{"TO" + "DO", "FIX" + "ME", "not " + "implemented"}
	for _, s := range sources(t) {
		for _, p := range []string{"work", "farm"} {
			if strings.Contains(s.text, `"/`+p+`/`) {
				t.Errorf("%s holds a path of a machine", s.path)
			}
		}
		if s.test {
			continue
		}
		for _, w := range words {
			if strings.Contains(s.text, w) {
				t.Errorf("%s contains %q", s.path, w)
			}
		}
	}
}

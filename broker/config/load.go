package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

const (
	envPrefix = "TAILRACE_"
	// delimiter separates levels of a YAML file; no setting contains it.
	delimiter = "/"
	// configFlag names the file. It is no setting: a file names no other.
	configFlag = "config"
)

// AddFlags registers every setting and --config.
func AddFlags(flags *pflag.FlagSet) {
	flags.AddFlagSet(newFlagSet(new(Node)))
	flags.String(configFlag, "", "YAML file with settings")
}

// Load merges defaults, the file of --config, the environment and the flags
// that were given, the later over the earlier, and validates the result.
// Variables of the environment that are no setting are ignored: orchestrators
// add their own. Unknown keys of the file are errors.
func Load(flags *pflag.FlagSet) (*Node, error) {
	k := koanf.New(delimiter)
	if err := loadFile(k, flags); err != nil {
		return nil, err
	}
	if err := k.Load(env.Provider(envPrefix, delimiter, envKey), nil); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	given := posflag.ProviderWithFlag(flags, delimiter, k, func(f *pflag.Flag) (string, any) {
		if !f.Changed || !isSetting(f.Name) {
			return "", nil
		}
		return f.Name, f.Value.String()
	})
	if err := k.Load(given, nil); err != nil {
		return nil, fmt.Errorf("flags: %w", err)
	}
	n := new(Node)
	if err := apply(newFlagSet(n), k); err != nil {
		return nil, err
	}
	return n, n.Validate()
}

func loadFile(k *koanf.Koanf, flags *pflag.FlagSet) error {
	path, err := flags.GetString(configFlag)
	if err != nil {
		return err
	}
	if path == "" {
		path = os.Getenv(envPrefix + "CONFIG")
	}
	if path == "" {
		return nil
	}
	switch err := k.Load(file.Provider(path), yaml.Parser()); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("configuration file %s does not exist", path)
	case err != nil:
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	for _, key := range k.Keys() {
		if !isSetting(key) {
			return fmt.Errorf("configuration file %s: unknown key %q; did you mean %q?", path, key, nearest(key))
		}
	}
	return nil
}

// envKey turns TAILRACE_BOOTSTRAP_EXPECT into bootstrap-expect; "" skips.
func envKey(name string) string {
	key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "_", "-"))
	if !isSetting(key) {
		return ""
	}
	return key
}

// apply sets every key that k has.
func apply(fs *pflag.FlagSet, k *koanf.Koanf) error {
	for _, key := range k.Keys() {
		text, err := toText(k.Get(key))
		if err == nil {
			err = fs.Lookup(key).Value.Set(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %q: %w", key, text, err)
		}
	}
	return nil
}

// toText returns a YAML value in the form that a flag takes.
func toText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", errors.New("has no value")
	case string:
		return v, nil
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			parts[i] = fmt.Sprint(p)
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		return "", errors.New("has keys below it")
	}
	return fmt.Sprint(v), nil
}

func isSetting(key string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.key == key })
}

// nearest returns the setting with the least edit distance to key.
func nearest(key string) string {
	key = strings.ReplaceAll(strings.ToLower(key), "_", "-")
	best, least := "", len(key)+100
	for _, s := range settings {
		if d := distance(key, s.key); d < least {
			best, least = s.key, d
		}
	}
	return best
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

package cluster

import (
	"context"
	"os"
	"path/filepath"
)

// KafkaTool returns the java command line of one of Kafka's own programs, such
// as org.apache.kafka.tools.ProducerPerformance, fetched once into the cache.
func KafkaTool(ctx context.Context, class string) ([]string, error) {
	libs, err := kafkaLibs(ctx)
	if err != nil {
		return nil, err
	}
	logConfig := filepath.Join(filepath.Dir(libs), "log4j2.yaml")
	if err := os.WriteFile(logConfig, []byte(kafkaLog4j), 0o644); err != nil {
		return nil, err
	}
	return []string{"java", "-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-cp", libs + "/*", "-Dlog4j2.configurationFile=" + logConfig, class}, nil
}

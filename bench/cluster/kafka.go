package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
)

// KafkaVersion is the release of Apache Kafka that we compare with: the newest
// for which Maven Central has every artifact that is needed.
const KafkaVersion = "4.3.1"

const kafkaPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId><artifactId>peer-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>` + KafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.5</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-1.2-api</artifactId><version>2.25.5</version></dependency>
  </dependencies></project>
`

// cacheDir returns a directory of ours in the user's cache; done says that a
// former run has filled it.
func cacheDir(name string) (dir string, done bool, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(base, "tailrace-bench", name)
	_, statErr := os.Stat(filepath.Join(dir, "complete"))
	return dir, statErr == nil, os.MkdirAll(dir, 0o755)
}

func markComplete(dir string) error {
	return os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

// kafkaLibs fetches Kafka's jars by Maven, once.
func kafkaLibs(ctx context.Context) (string, error) {
	dir, done, err := cacheDir("kafka-" + KafkaVersion)
	libs := filepath.Join(dir, "libs")
	if err != nil || done {
		return libs, err
	}
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(kafkaPOM), 0o644); err != nil {
		return "", err
	}
	err = proc.Run(ctx, proc.Spec{Name: "mvn", Path: "mvn", Dir: dir,
		Args: []string{"-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"}})
	if err != nil {
		return "", err
	}
	return libs, markComplete(dir)
}

// kafkaProperties is one combined broker and controller with the safe settings
// that match ours: three copies, two in sync, no unclean election.
func kafkaProperties(id int, voters, kafka, controller, dir string, o Options, fsync bool) string {
	rf := min(3, o.Nodes)
	lines := []string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", id),
		"controller.quorum.voters=" + voters,
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://%s", kafka, controller),
		"advertised.listeners=PLAINTEXT://" + kafka,
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=PLAINTEXT",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"log.dirs=" + dir,
		"broker.rack=" + Rack(id-1),
		"replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector",
		fmt.Sprintf("default.replication.factor=%d", rf),
		fmt.Sprintf("min.insync.replicas=%d", o.MinInSync),
		fmt.Sprintf("offsets.topic.replication.factor=%d", rf),
		"offsets.topic.num.partitions=3",
		fmt.Sprintf("transaction.state.log.replication.factor=%d", rf),
		fmt.Sprintf("transaction.state.log.min.isr=%d", o.MinInSync),
		"unclean.leader.election.enable=false",
		"group.initial.rebalance.delay.ms=0",
		"auto.create.topics.enable=false",
		"num.network.threads=2",
		"num.io.threads=4",
	}
	if fsync {
		lines = append(lines, "log.flush.interval.messages=1")
	}
	return strings.Join(lines, "\n") + "\n"
}

const kafkaLog4j = `Configuration:
  Appenders:
    Console:
      name: C
      PatternLayout: {pattern: "%d %p %c{1} %m%n"}
  Loggers:
    Root:
      level: warn
      AppenderRef: {ref: C}
`

// kafkaReady is how long three JVMs may take to start on a busy machine.
const kafkaReady = 5 * time.Minute

func startKafka(ctx context.Context, name string, o Options) (*Cluster, error) {
	libs, err := kafkaLibs(ctx)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(name, "kafka", o)
	if err != nil {
		return nil, err
	}
	fsync := name == "kafka-fsync"
	c.Info = Info{Version: "Apache Kafka " + KafkaVersion, Fsync: "left to the operating system (Kafka's default)", Replication: min(3, o.Nodes), InSync: o.MinInSync}
	if fsync {
		c.Info.Fsync = "every append (log.flush.interval.messages=1)"
	}
	logConfig := filepath.Join(c.dir, "log4j2.yaml")
	if err := os.WriteFile(logConfig, []byte(kafkaLog4j), 0o644); err != nil {
		return c, err
	}
	files, err := c.kafkaConfigs(o, fsync)
	if err != nil {
		return c, err
	}
	clusterID, err := randomClusterID()
	if err != nil {
		return c, err
	}
	c.format = func(ctx context.Context) error {
		for _, f := range files {
			if err := proc.Run(ctx, proc.Spec{Name: "format", Path: "java", Dir: c.dir,
				Args: []string{"-cp", libs + "/*", "-Dlog4j2.configurationFile=" + logConfig, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", f}}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := c.format(ctx); err != nil {
		return c, err
	}
	for i, f := range files {
		args := []string{"-cp", libs + "/*", fmt.Sprintf("-Xms%dm", o.KafkaHeapMB), fmt.Sprintf("-Xmx%dm", o.KafkaHeapMB),
			"-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent",
			"-Dlog4j2.configurationFile=" + logConfig, "-Dkafka.logs.dir=" + c.dir, "kafka.Kafka", f}
		if err := c.addNode(int32(i+1), proc.Spec{Path: "java", Args: args, Dir: c.dir, Log: o.Log}); err != nil {
			return c, err
		}
		c.Nodes[i].termed = 143 // a JVM's status after SIGTERM, though it stopped in order
	}
	return c, c.WaitReady(ctx, max(o.Ready, kafkaReady))
}

// kafkaConfigs writes the properties of each node and sets the bootstrap
// addresses.
func (c *Cluster) kafkaConfigs(o Options, fsync bool) ([]string, error) {
	ports, err := proc.FreePorts(2 * o.Nodes)
	if err != nil {
		return nil, err
	}
	var voters []string
	for i := range o.Nodes {
		c.Bootstrap = append(c.Bootstrap, fmt.Sprintf("127.0.0.1:%d", ports[i]))
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[o.Nodes+i]))
	}
	var files []string
	for i := range o.Nodes {
		dir, err := c.nodeDir(i + 1)
		if err != nil {
			return nil, err
		}
		f := filepath.Join(c.dir, fmt.Sprintf("server-%d.properties", i+1))
		text := kafkaProperties(i+1, strings.Join(voters, ","), c.Bootstrap[i], fmt.Sprintf("127.0.0.1:%d", ports[o.Nodes+i]), dir, o, fsync)
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// randomClusterID makes an id in the form of Kafka's Uuid.
func randomClusterID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[0] &= 0x7f // a leading '-' would look like a flag
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

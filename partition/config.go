package partition

import (
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// Config makes a Replica.
type Config struct {
	Self        model.BrokerID
	Incarnation model.Incarnation // own registration; see Registered
	Log         Log
	Clock       clock.Clock
	Topic       TopicConfig
	// Contacts says when each broker was last heard from, by any message on
	// the connection of the pair. Shared by all replicas of a broker. Nil:
	// only this partition's own traffic counts.
	Contacts *Contacts
	// Fetches says when the last fetch response of each leader arrived, one
	// whose request named every followed partition of that leader. It keeps
	// idle caught-up replicas fresh for readers. Nil: only responses for
	// this partition count.
	Fetches *Contacts
}

// TopicConfig is a topic's configuration as far as a replica obeys it. Zero
// values mean what is said at each field.
type TopicConfig struct {
	MaxMessageBytes   int           // max.message.bytes, of one batch; 0: 1048588
	LogAppendTime     bool          // message.timestamp.type
	TimestampBefore   time.Duration // message.timestamp.before.max.ms; 0: no limit
	TimestampAfter    time.Duration // message.timestamp.after.max.ms; 0: no limit
	AcksFloorClient   bool          // acks.floor=client: acks=1 is answered at append
	Compact           bool          // cleanup.policy holds compact: records need keys
	ReadMaxLag        time.Duration // replica.read.max.lag.ms; 0: no limit
	ProducerIDExpires time.Duration // producer.id.expiration.ms; 0: 24 hours
	Log               segment.LogConfig
}

const (
	defaultMaxMessageBytes = 1048588
	defaultProducerExpiry  = 24 * time.Hour
)

func (c *TopicConfig) maxMessageBytes() int {
	if c.MaxMessageBytes <= 0 {
		return defaultMaxMessageBytes
	}
	return c.MaxMessageBytes
}

func (c *TopicConfig) producerExpiry() time.Duration {
	if c.ProducerIDExpires <= 0 {
		return defaultProducerExpiry
	}
	return c.ProducerIDExpires
}

// Contacts is a table of when brokers were last heard from, in elapsed time.
// Safe for concurrent use; a nil table knows nothing.
type Contacts struct {
	mu sync.RWMutex
	at map[model.BrokerID]time.Duration
}

// Heard records that b was heard from; an earlier time than known is ignored.
func (c *Contacts) Heard(b model.BrokerID, at time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = make(map[model.BrokerID]time.Duration)
	}
	if last, ok := c.at[b]; !ok || at > last {
		c.at[b] = at
	}
}

// Last returns when b was last heard from.
func (c *Contacts) Last(b model.BrokerID) (time.Duration, bool) {
	if c == nil {
		return 0, false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	at, ok := c.at[b]
	return at, ok
}

package broker

import (
	"testing"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

func TestFollowerEnd(t *testing.T) {
	own := &partition.Status{LogEnd: 10, Followers: []isr.PeerStatus{
		{Broker: 2, Durable: 7, Fetched: true, Position: 9},
		{Broker: 3, Durable: -1, Fetched: true, Position: 4}, // damaged, or new in this epoch
		{Broker: 4, Durable: -1},
		{Broker: 5, Durable: 0, Fetched: true},
	}}
	for id, want := range map[model.BrokerID]int64{2: 7, 3: 4, 4: -1, 5: 0, 6: -1} {
		if got := followerEnd(own, id); got != want {
			t.Errorf("broker %d is at %d, want %d", id, got, want)
		}
	}
}

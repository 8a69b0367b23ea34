package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

// maxView bounds what is read from a broker's HTTP interface.
const maxView = 256 << 20

type partitionListDoc struct {
	Partitions []partitionRow `json:"partitions"`
}

// partitionRow is what the Kafka protocol tells of a partition, and what its
// leader's HTTP interface adds.
type partitionRow struct {
	Topic         string       `json:"topic"`
	Partition     int32        `json:"partition"`
	Leader        int32        `json:"leader"`
	LeaderEpoch   int32        `json:"leader_epoch"`
	ISR           []int32      `json:"isr"`
	Start         int64        `json:"start_offset"`
	HighWatermark int64        `json:"high_watermark"`
	Replicas      []replicaRow `json:"replicas"`
	Error         string       `json:"error,omitempty"`
}

type replicaRow struct {
	client.ReplicaStatus
	LogEnd  int64 `json:"log_end"` // -1 if unknown
	Suspect bool  `json:"suspect"`
	Damaged bool  `json:"damaged"`
}

func (a *app) partitionCommand() *cobra.Command {
	list := &cobra.Command{
		Use:   "list [TOPIC…]",
		Short: "List partitions with leader, in-sync set, offsets and the lag of each replica",
		Args:  rangeArgs(0, -1, "[TOPIC…]"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				partitions, err := admin.Partitions(ctx, args...)
				if err != nil {
					return err
				}
				rows := plainRows(partitions)
				addViews(ctx, admin, rows)
				return a.print(partitionListDoc{Partitions: rows}, partitionTable(rows))
			})
		},
	}
	list.ValidArgsFunction = a.completeTopics
	return noun("partition", "Look at partitions and their replicas", list)
}

func plainRows(partitions []client.PartitionStatus) []partitionRow {
	rows := make([]partitionRow, 0, len(partitions))
	for _, p := range partitions {
		row := partitionRow{
			Topic: p.Topic, Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
			ISR: p.ISR, Start: p.Start, HighWatermark: p.HighWatermark, Error: p.Error, Replicas: []replicaRow{},
		}
		for _, r := range p.Replicas {
			row.Replicas = append(row.Replicas, replicaRow{ReplicaStatus: r, LogEnd: -1})
		}
		rows = append(rows, row)
	}
	return rows
}

func partitionTable(rows []partitionRow) *table {
	t := &table{header: []string{"TOPIC", "PARTITION", "LEADER", "EPOCH", "ISR", "START", "HIGH-WATERMARK", "REPLICAS"}}
	for _, p := range rows {
		replicas := make([]string, len(p.Replicas))
		for i, r := range p.Replicas {
			replicas[i] = r.text()
		}
		t.add(p.Topic, p.Partition, p.Leader, p.LeaderEpoch, p.ISR, p.Start, p.HighWatermark, strings.Join(replicas, " "))
	}
	return t
}

// text is for example "2:in-sync" or "3:async(+120,suspect)".
func (r replicaRow) text() string {
	var notes []string
	if r.Lag > 0 {
		notes = append(notes, fmt.Sprintf("+%d", r.Lag))
	}
	if r.Suspect {
		notes = append(notes, "suspect")
	}
	if r.Damaged {
		notes = append(notes, "damaged")
	}
	s := fmt.Sprintf("%d:%s", r.Broker, r.State)
	if len(notes) > 0 {
		s += "(" + strings.Join(notes, ",") + ")"
	}
	return s
}

// view is the part of /v1/partitions that is used.
type view struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"`
	Replicas  []struct {
		Broker  int32  `json:"broker"`
		State   string `json:"state"`
		LogEnd  int64  `json:"log_end"`
		Lag     int64  `json:"lag"`
		Suspect bool   `json:"suspect"`
		Damaged bool   `json:"damaged"`
	} `json:"replicas"`
}

// addViews asks each broker's HTTP interface, where it is reachable, and takes
// what it says of the partitions that it leads, since only the leader knows its
// followers' progress, and of its own replicas. Everything here is an extra, so failures leave gaps.
func addViews(ctx context.Context, admin *client.Admin, rows []partitionRow) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, err := admin.Cluster(ctx)
	if err != nil {
		return
	}
	var asking sync.WaitGroup
	views := make([][]view, len(status.Brokers))
	for i, b := range status.Brokers {
		asking.Go(func() {
			c, err := admin.BrokerConfig(ctx, b.ID, httpConfig)
			if err != nil || c.Value == "" {
				return
			}
			if got, err := fetchView(ctx, c.Value); err == nil {
				views[i] = got
			}
		})
	}
	asking.Wait()
	at := make(map[string]*partitionRow, len(rows))
	for i := range rows {
		at[fmt.Sprintf("%s/%d", rows[i].Topic, rows[i].Partition)] = &rows[i]
	}
	for i, b := range status.Brokers {
		for _, v := range views[i] {
			row := at[fmt.Sprintf("%s/%d", v.Topic, v.Partition)]
			if row == nil {
				continue
			}
			if v.Leader == b.ID && row.Leader == b.ID {
				row.merge(v)
			}
			row.mergeOwn(b.ID, v)
		}
	}
}

func fetchView(ctx context.Context, address string) ([]view, error) {
	base, err := parseBase(address)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("v1", "partitions").String(), nil)
	if err != nil {
		return nil, err
	}
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", address, resp.Status)
	}
	var out []view
	return out, json.NewDecoder(io.LimitReader(resp.Body, maxView)).Decode(&out)
}

func (p *partitionRow) merge(v view) {
	for i := range p.Replicas {
		r := &p.Replicas[i]
		for _, known := range v.Replicas {
			if known.Broker != r.Broker {
				continue
			}
			if known.State != "" {
				r.State = known.State
			}
			if known.Lag >= 0 {
				r.Lag = known.Lag
			}
			r.LogEnd = known.LogEnd
		}
	}
}

// mergeOwn takes what a broker says of its own replica's log: nobody else
// knows whether it is damaged.
func (p *partitionRow) mergeOwn(broker int32, v view) {
	for i := range p.Replicas {
		for _, known := range v.Replicas {
			if r := &p.Replicas[i]; r.Broker == broker && known.Broker == broker {
				r.Suspect, r.Damaged = known.Suspect, known.Damaged
			}
		}
	}
}

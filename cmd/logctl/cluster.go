package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

func (a *app) clusterCommand() *cobra.Command {
	status := &cobra.Command{
		Use: "status", Short: "Show brokers and totals", Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				s, err := admin.Cluster(ctx)
				if err != nil {
					return err
				}
				totals := &table{header: []string{"CLUSTER", "CONTROLLER", "BROKERS", "TOPICS", "PARTITIONS", "LEADERLESS", "UNDER-REPLICATED"}}
				totals.add(s.ClusterID, s.Controller, len(s.Brokers), s.Topics, s.Partitions, s.Leaderless, s.UnderReplicated)
				return a.print(s, totals, brokerTable(s.Brokers))
			})
		},
	}
	return noun("cluster", "Look at the cluster as a whole", status)
}

func brokerTable(brokers []client.BrokerStatus) *table {
	t := &table{header: []string{"BROKER", "ADDRESS", "RACK", "CONTROLLER", "LEADERS", "REPLICAS"}}
	for _, b := range brokers {
		t.add(b.ID, fmt.Sprintf("%s:%d", b.Host, b.Port), b.Rack, b.Controller, b.Leaders, b.Replicas)
	}
	return t
}

type brokerListDoc struct {
	Brokers []client.BrokerStatus `json:"brokers"`
}

type brokerDoc struct {
	client.BrokerStatus
	Configs []client.Config `json:"configs"`
}

func (a *app) brokerCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List live brokers", Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				s, err := admin.Cluster(ctx)
				if err != nil {
					return err
				}
				return a.print(brokerListDoc{Brokers: s.Brokers}, brokerTable(s.Brokers))
			})
		},
	}
	describe := &cobra.Command{
		Use: "describe ID", Short: "Show a broker and its settings", Args: exactArgs("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := brokerID(args[0])
			if err != nil {
				return err
			}
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				return a.describeBroker(ctx, admin, id)
			})
		},
	}
	return noun("broker", "Look at brokers", list, describe)
}

func brokerID(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return 0, usagef("bad broker id %q: use a number, see logctl broker list", s)
	}
	return int32(id), nil
}

func (a *app) describeBroker(ctx context.Context, admin *client.Admin, id int32) error {
	configs, err := admin.BrokerConfigs(ctx, id)
	if err != nil {
		return err
	}
	s, err := admin.Cluster(ctx)
	if err != nil {
		return err
	}
	doc := brokerDoc{Configs: configs}
	for _, b := range s.Brokers {
		if b.ID == id {
			doc.BrokerStatus = b
		}
	}
	return a.print(doc, brokerTable([]client.BrokerStatus{doc.BrokerStatus}), configTable(configs))
}

func configTable(configs []client.Config) *table {
	t := &table{header: []string{"SETTING", "VALUE", "SOURCE"}}
	for _, c := range configs {
		value := c.Value
		if c.Sensitive {
			value = "(hidden)"
		}
		t.add(c.Name, value, c.Source)
	}
	return t
}

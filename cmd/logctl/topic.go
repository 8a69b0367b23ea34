package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

func (a *app) topicCommand() *cobra.Command {
	return noun("topic", "Create, list, describe, alter and delete topics",
		a.topicCreate(), a.topicList(), a.topicDescribe(), a.topicDelete(), a.topicAlter())
}

type topicCreated struct {
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
}

func (a *app) topicCreate() *cobra.Command {
	var partitions int32
	var replicas int16
	var configs []string
	c := &cobra.Command{
		Use:     "create NAME",
		Short:   "Create a topic; returns when every live broker shows it with a leader",
		Example: "  logctl topic create orders --partitions 3 --replicas 3 --config min.insync.replicas=2",
		Args:    exactArgs("NAME"),
	}
	c.Flags().Int32Var(&partitions, "partitions", -1, "number of partitions (default: the cluster's)")
	c.Flags().Int16Var(&replicas, "replicas", -1, "replication factor (default: the cluster's)")
	c.Flags().StringArrayVar(&configs, "config", nil, "setting NAME=VALUE, repeatable")
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := parseSettings(configs)
		if err != nil {
			return err
		}
		if partitions == 0 || replicas == 0 {
			return usagef("--partitions and --replicas must be positive")
		}
		spec := client.TopicSpec{Name: args[0], Partitions: partitions, Replicas: replicas, Configs: set}
		return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
			return a.createTopic(ctx, admin, spec)
		})
	}
	return c
}

func (a *app) createTopic(ctx context.Context, admin *client.Admin, spec client.TopicSpec) error {
	if err := admin.CreateTopic(ctx, spec); err != nil {
		return err
	}
	if err := admin.WaitTopic(ctx, spec.Name, int(spec.Partitions)); err != nil {
		return fmt.Errorf("topic %s is created, but not every broker shows it yet: %w", spec.Name, err)
	}
	topics, err := admin.Topics(ctx, spec.Name)
	if err != nil {
		return err
	}
	doc := topicCreated{Topic: spec.Name, Partitions: len(topics[0].Partitions), Replicas: replicasOf(topics[0])}
	t := &table{header: []string{"TOPIC", "PARTITIONS", "REPLICAS"}}
	t.add(doc.Topic, doc.Partitions, doc.Replicas)
	return a.print(doc, t)
}

func replicasOf(t client.TopicStatus) int {
	most := 0
	for _, p := range t.Partitions {
		most = max(most, len(p.Replicas))
	}
	return most
}

// parseSettings reads NAME=VALUE pairs.
func parseSettings(pairs []string) (map[string]string, error) {
	out := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("bad setting %q: use NAME=VALUE", p)
		}
		out[k] = v
	}
	return out, nil
}

type topicSummary struct {
	Topic           string `json:"topic"`
	ID              string `json:"id"`
	Partitions      int    `json:"partitions"`
	Replicas        int    `json:"replicas"`
	Leaderless      int    `json:"leaderless_partitions"`
	UnderReplicated int    `json:"under_replicated_partitions"`
	Internal        bool   `json:"internal"`
}

type topicListDoc struct {
	Topics []topicSummary `json:"topics"`
}

func summarize(t client.TopicStatus) topicSummary {
	s := topicSummary{Topic: t.Topic, ID: t.ID, Partitions: len(t.Partitions), Replicas: replicasOf(t), Internal: t.Internal}
	for _, p := range t.Partitions {
		if p.Leader < 0 {
			s.Leaderless++
		}
		if len(p.ISR) < len(p.Replicas) {
			s.UnderReplicated++
		}
	}
	return s
}

func (a *app) topicList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List topics", Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				topics, err := admin.Topics(ctx)
				if err != nil {
					return err
				}
				doc := topicListDoc{Topics: []topicSummary{}}
				t := &table{header: []string{"TOPIC", "PARTITIONS", "REPLICAS", "LEADERLESS", "UNDER-REPLICATED"}}
				for _, topic := range topics {
					s := summarize(topic)
					doc.Topics = append(doc.Topics, s)
					t.add(s.Topic, s.Partitions, s.Replicas, s.Leaderless, s.UnderReplicated)
				}
				return a.print(doc, t)
			})
		},
	}
}

type topicDoc struct {
	Topic      string          `json:"topic"`
	ID         string          `json:"id"`
	Internal   bool            `json:"internal"`
	Partitions []partitionRow  `json:"partitions"`
	Configs    []client.Config `json:"configs"`
}

func (a *app) topicDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show partitions and settings of a topic", Args: exactArgs("NAME"),
		ValidArgsFunction: a.completeTopics,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				return a.describeTopic(ctx, admin, args[0])
			})
		},
	}
}

func (a *app) describeTopic(ctx context.Context, admin *client.Admin, name string) error {
	topics, err := admin.Topics(ctx, name)
	if err != nil {
		return err
	}
	partitions, err := admin.Partitions(ctx, name)
	if err != nil {
		return err
	}
	configs, err := admin.TopicConfigs(ctx, name)
	if err != nil {
		return err
	}
	doc := topicDoc{Topic: name, ID: topics[0].ID, Internal: topics[0].Internal, Partitions: plainRows(partitions), Configs: configs}
	settings := &table{header: []string{"SETTING", "VALUE", "SOURCE"}}
	for _, c := range configs {
		if !c.Default() {
			settings.add(c.Name, c.Value, c.Source)
		}
	}
	tables := []*table{partitionTable(doc.Partitions)}
	if len(settings.rows) > 0 {
		tables = append(tables, settings)
	}
	return a.print(doc, tables...)
}

type topicDeletedDoc struct {
	Deleted []string `json:"deleted"`
}

func (a *app) topicDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME…", Short: "Delete topics and their records", Args: rangeArgs(1, -1, "NAME…"),
		ValidArgsFunction: a.completeTopics,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				t := &table{header: []string{"DELETED"}}
				for _, name := range args {
					if err := admin.DeleteTopic(ctx, name); err != nil {
						return err
					}
					t.add(name)
				}
				return a.print(topicDeletedDoc{Deleted: args}, t)
			})
		},
	}
}

func (a *app) topicAlter() *cobra.Command {
	var partitions int
	var configs, reset []string
	c := &cobra.Command{
		Use: "alter NAME", Short: "Change settings of a topic, or add partitions", Args: exactArgs("NAME"),
		Example:           "  logctl topic alter orders --config retention.ms=86400000 --delete-config segment.bytes --partitions 6",
		ValidArgsFunction: a.completeTopics,
	}
	c.Flags().IntVar(&partitions, "partitions", 0, "new number of partitions; it can only grow")
	c.Flags().StringArrayVar(&configs, "config", nil, "setting NAME=VALUE, repeatable")
	c.Flags().StringArrayVar(&reset, "delete-config", nil, "setting to reset to its default, repeatable")
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := parseSettings(configs)
		if err != nil {
			return err
		}
		if len(set)+len(reset) == 0 && partitions <= 0 {
			return usagef("nothing to alter: give --config, --delete-config or --partitions")
		}
		return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
			if len(set)+len(reset) > 0 {
				if err := admin.AlterTopicConfigs(ctx, args[0], set, reset); err != nil {
					return err
				}
			}
			if partitions > 0 {
				if err := admin.SetPartitions(ctx, args[0], partitions); err != nil {
					return err
				}
				if err := admin.WaitTopic(ctx, args[0], partitions); err != nil {
					return err
				}
			}
			return a.describeTopic(ctx, admin, args[0])
		})
	}
	return c
}

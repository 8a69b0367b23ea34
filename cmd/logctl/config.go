package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

type configDoc struct {
	Kind    string          `json:"kind"` // "topic" or "broker"
	Name    string          `json:"name"`
	Configs []client.Config `json:"configs"`
}

func (a *app) configCommand() *cobra.Command {
	get := &cobra.Command{
		Use:     "get topic|broker NAME [SETTING…]",
		Short:   "Show settings of a topic or broker",
		Example: "  logctl config get topic orders retention.ms\n  logctl config get broker 1",
		Args:    rangeArgs(2, -1, "topic|broker", "NAME", "[SETTING…]"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
				return a.getConfigs(ctx, admin, args[0], args[1], args[2:])
			})
		},
	}
	var reset []string
	set := &cobra.Command{
		Use:     "set topic|broker NAME [SETTING=VALUE…]",
		Short:   "Change settings of a topic or broker",
		Example: "  logctl config set topic orders retention.ms=86400000 --delete segment.bytes",
		Args:    rangeArgs(2, -1, "topic|broker", "NAME", "[SETTING=VALUE…]"),
	}
	set.Flags().StringArrayVar(&reset, "delete", nil, "setting to reset to its default, repeatable")
	set.RunE = func(c *cobra.Command, args []string) error {
		values, err := parseSettings(args[2:])
		if err != nil {
			return err
		}
		if len(values)+len(reset) == 0 {
			return usagef("nothing to set: give SETTING=VALUE or --delete SETTING")
		}
		return a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
			if err := alterConfigs(ctx, admin, args[0], args[1], values, reset); err != nil {
				return err
			}
			names := slices.Clone(reset)
			for name := range values {
				names = append(names, name)
			}
			return a.getConfigs(ctx, admin, args[0], args[1], names)
		})
	}
	get.ValidArgsFunction, set.ValidArgsFunction = completeKind, completeKind
	return noun("config", "Show and change settings", get, set)
}

func completeKind(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return []string{"topic", "broker"}, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) getConfigs(ctx context.Context, admin *client.Admin, kind, name string, only []string) error {
	configs, err := readConfigs(ctx, admin, kind, name)
	if err != nil {
		return err
	}
	doc := configDoc{Kind: kind, Name: name, Configs: configs}
	if len(only) > 0 {
		doc.Configs = []client.Config{}
		for _, want := range slices.Compact(slices.Sorted(slices.Values(only))) {
			i := slices.IndexFunc(configs, func(c client.Config) bool { return c.Name == want })
			if i < 0 {
				return &client.Error{Op: "config get " + kind + " " + name, Kind: client.ErrNotFound, Err: fmt.Errorf("no setting is called %s", want)}
			}
			doc.Configs = append(doc.Configs, configs[i])
		}
	}
	return a.print(doc, configTable(doc.Configs))
}

func readConfigs(ctx context.Context, admin *client.Admin, kind, name string) ([]client.Config, error) {
	switch kind {
	case "topic":
		return admin.TopicConfigs(ctx, name)
	case "broker":
		id, err := brokerID(name)
		if err != nil {
			return nil, err
		}
		return admin.BrokerConfigs(ctx, id)
	}
	return nil, badKind(kind)
}

func alterConfigs(ctx context.Context, admin *client.Admin, kind, name string, set map[string]string, reset []string) error {
	switch kind {
	case "topic":
		return admin.AlterTopicConfigs(ctx, name, set, reset)
	case "broker":
		id, err := brokerID(name)
		if err != nil {
			return err
		}
		return admin.AlterBrokerConfigs(ctx, id, set, reset)
	}
	return badKind(kind)
}

func badKind(kind string) error { return usagef("bad kind %q: use topic or broker", kind) }

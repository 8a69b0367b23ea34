// Command logctl is the command line of a Tailrace cluster: topics, configs,
// producing, consuming, tailing and a look at brokers and partitions. It talks
// the Kafka protocol, so it works against any Kafka-compatible cluster; tail,
// and some columns of partition list, use a broker's HTTP interface.
//
// Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 unavailable or timed out.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

package control

import "math"

// brokerConfigs is the catalogue of broker and cluster keys. Kafka's names
// are all there because tools compare the whole list; what a Go broker has no
// use for is read-only.
var brokerConfigs = sorted(append(topicSynonyms(), []*ConfigDef{
	// Settable at run time.
	{"num.partitions", TypeInt, "1", "", ClusterWide, "Partitions of a topic that is created without a number.", integer(1, maxNewPartitions)},
	{"default.replication.factor", TypeInt, "3", "", ClusterWide, "Replicas of a topic that is created without a number; at most the number of live brokers.", integer(1, math.MaxInt16)},
	{"auto.create.topics.enable", TypeBool, "false", "", ClusterWide, "Whether a metadata request may create a topic.", boolean},
	{"replica.lag.time.max.ms", TypeLong, "10000", "", ClusterWide, "A follower that has not caught up for this long leaves the in-sync set.", integer(1, maxMs)},
	{"auto.leader.rebalance.enable", TypeBool, "true", "", ClusterWide, "Whether leaderships return to preferred replicas by themselves.", boolean},
	{"delete.topic.enable", TypeBool, "true", "", ClusterWide, "Whether topics can be deleted.", boolean},
	{"group.initial.rebalance.delay.ms", TypeInt, "3000", "", ClusterWide, "Wait for more members before the first rebalance of an empty group.", integer(0, math.MaxInt32)},
	{"leader.replication.throttled.rate", TypeLong, "9223372036854775807", "", PerBroker, "Bytes per second for throttled replicas, leader side.", integer(0, maxLong)},
	{"follower.replication.throttled.rate", TypeLong, "9223372036854775807", "", PerBroker, "Bytes per second for throttled replicas, follower side.", integer(0, maxLong)},

	// From the node's settings.
	{"broker.id", TypeInt, "-1", "", ReadOnly, "Id of this broker.", nil},
	{"node.id", TypeInt, "-1", "", ReadOnly, "Id of this broker.", nil},
	{"broker.rack", TypeString, "", "", ReadOnly, "Failure domain of this broker.", nil},
	{"listeners", TypeString, "PLAINTEXT://:9092", "", ReadOnly, "Addresses the broker listens on.", nil},
	{"advertised.listeners", TypeString, "", "", ReadOnly, "Addresses given to clients.", nil},
	{"listener.security.protocol.map", TypeString, "PLAINTEXT:PLAINTEXT", "", ReadOnly, "Security protocol of each listener.", nil},
	{"inter.broker.listener.name", TypeString, "", "", ReadOnly, "Listener between brokers.", nil},
	{"log.dirs", TypeString, "", "", ReadOnly, "Data directory.", nil},
	{"log.dir", TypeString, "", "", ReadOnly, "Data directory.", nil},
	{"tailrace.http.advertised", TypeString, "", "", ReadOnly, "URL of the console and of websocket tailing, empty if off.", nil},
	{"log.retention.hours", TypeInt, "168", "", ReadOnly, "Default retention in hours; log.retention.ms has precedence.", nil},
	{"log.retention.check.interval.ms", TypeLong, "300000", "", ReadOnly, "Period of retention.", nil},
	{"replica.fetch.max.bytes", TypeInt, "1048576", "", ReadOnly, "Size of a follower's fetch of a partition.", nil},
	{"replica.fetch.wait.max.ms", TypeInt, "500", "", ReadOnly, "Longest wait of a follower's fetch.", nil},
	{"num.replica.fetchers", TypeInt, "1", "", ReadOnly, "Fetch connections between two brokers.", nil},
	{"replica.selector.class", TypeString, "", "", ReadOnly, "Any replica serves reads; the choice is not pluggable.", nil},
	{"leader.imbalance.per.broker.percentage", TypeInt, "10", "", ReadOnly, "Imbalance that is tolerated.", nil},
	{"leader.imbalance.check.interval.seconds", TypeLong, "300", "", ReadOnly, "Period of leader balancing.", nil},
	{"broker.heartbeat.interval.ms", TypeInt, "500", "", ReadOnly, "Period of heartbeats to the controller.", nil},
	{"broker.session.timeout.ms", TypeInt, "3000", "", ReadOnly, "Silence after which a broker is fenced.", nil},
	{"offsets.topic.num.partitions", TypeInt, "50", "", ReadOnly, "Partitions of the committed-offsets topic.", nil},
	{"offsets.topic.replication.factor", TypeInt, "3", "", ReadOnly, "Replicas of the committed-offsets topic, at most the number of brokers.", nil},
	{"offsets.retention.minutes", TypeInt, "10080", "", ReadOnly, "Time after which an empty group's offsets expire.", nil},
	{"group.min.session.timeout.ms", TypeInt, "6000", "", ReadOnly, "Least session timeout of a group member.", nil},
	{"group.max.session.timeout.ms", TypeInt, "1800000", "", ReadOnly, "Greatest session timeout of a group member.", nil},
	{"group.consumer.session.timeout.ms", TypeInt, "45000", "", ReadOnly, "Session timeout of the consumer group protocol.", nil},
	{"group.consumer.heartbeat.interval.ms", TypeInt, "5000", "", ReadOnly, "Heartbeat interval of the consumer group protocol.", nil},
	{"transaction.state.log.num.partitions", TypeInt, "50", "", ReadOnly, "Partitions of the transaction log.", nil},
	{"transaction.state.log.replication.factor", TypeInt, "3", "", ReadOnly, "Replicas of the transaction log.", nil},
	{"transaction.state.log.min.isr", TypeInt, "2", "", ReadOnly, "Least in-sync set of the transaction log.", nil},
	{"transaction.max.timeout.ms", TypeInt, "900000", "", ReadOnly, "Greatest transaction timeout.", nil},
	{"transactional.id.expiration.ms", TypeInt, "604800000", "", ReadOnly, "Expiry of an idle transactional id.", nil},
	{"producer.id.expiration.ms", TypeInt, "86400000", "", ReadOnly, "Expiry of an idle producer's state.", nil},
	{"socket.request.max.bytes", TypeInt, "104857600", "", ReadOnly, "Largest request.", nil},
	{"fetch.max.bytes", TypeInt, "57671680", "", ReadOnly, "Largest fetch response.", nil},
	{"max.connections", TypeInt, "2147483647", "", ReadOnly, "Connections of the broker.", nil},
	{"max.connections.per.ip", TypeInt, "2147483647", "", ReadOnly, "Connections of one address.", nil},
	{"max.connection.creation.rate", TypeInt, "2147483647", "", ReadOnly, "Connections accepted per second.", nil},
	{"connections.max.idle.ms", TypeLong, "600000", "", ReadOnly, "Idle time after which a connection closes.", nil},
	{"connections.max.reauth.ms", TypeLong, "0", "", ReadOnly, "Lifetime of a SASL session.", nil},
	{"sasl.enabled.mechanisms", TypeList, "", "", ReadOnly, "SASL mechanisms offered.", nil},
	{"ssl.client.auth", TypeString, "none", "", ReadOnly, "Whether clients present certificates.", nil},
	{"ssl.principal.mapping.rules", TypeString, "DEFAULT", "", ReadOnly, "Certificate name to principal.", nil},
	{"authorizer.class.name", TypeString, "", "", ReadOnly, "The authorizer is not pluggable.", nil},
	{"super.users", TypeString, "", "", ReadOnly, "Principals that may do everything.", nil},
	{"allow.everyone.if.no.acl.found", TypeBool, "false", "", ReadOnly, "Access to resources without a rule.", nil},
	{"num.network.threads", TypeInt, "3", "", ReadOnly, "Not used: no fixed thread pools.", nil},
	{"num.io.threads", TypeInt, "8", "", ReadOnly, "Not used: no fixed thread pools.", nil},
	{"background.threads", TypeInt, "10", "", ReadOnly, "Not used: no fixed thread pools.", nil},
	{"queued.max.requests", TypeInt, "500", "", ReadOnly, "Not used: requests are bounded by bytes.", nil},
	{"log.cleaner.threads", TypeInt, "1", "", ReadOnly, "Not used: no fixed thread pools.", nil},
	{"log.cleaner.dedupe.buffer.size", TypeLong, "134217728", "", ReadOnly, "Not used: compaction has no memory bound on keys.", nil},
	{"num.recovery.threads.per.data.dir", TypeInt, "2", "", ReadOnly, "Not used: no fixed thread pools.", nil},
	{"max.incremental.fetch.session.cache.slots", TypeInt, "1000", "", ReadOnly, "Fetch sessions kept.", nil},
	{"controlled.shutdown.enable", TypeBool, "true", "", ReadOnly, "A graceful stop moves leaderships first.", nil},
	{"unclean.leader.election.enable", TypeBool, "false", "", ReadOnly, "An unclean election needs an explicit command.", nil},
}...))

// topicSynonyms makes the broker keys that hold topic keys' defaults.
func topicSynonyms() []*ConfigDef {
	var out []*ConfigDef
	for _, t := range topicConfigs {
		if t.Synonym != "" {
			d := *t
			d.Name, d.Synonym, d.Scope = t.Synonym, "", ClusterWide
			out = append(out, &d)
		}
	}
	return out
}

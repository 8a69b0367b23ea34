package history

// Kafka error codes that mean "this write was not applied and will not be".
// Everything else leaves the question open: NOT_LEADER_OR_FOLLOWER may be
// answered after the append (KAFKA-13574), NOT_ENOUGH_REPLICAS_AFTER_APPEND
// says so in its name, and a time-out, a lost connection, a storage error or
// an unknown error say nothing.
var definite = map[int16]string{
	10: "MESSAGE_TOO_LARGE",
	19: "NOT_ENOUGH_REPLICAS",
	29: "TOPIC_AUTHORIZATION_FAILED",
	30: "GROUP_AUTHORIZATION_FAILED",
	31: "CLUSTER_AUTHORIZATION_FAILED",
	53: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
	87: "INVALID_RECORD",
}

// Outcome is the strict rule that turns the answer to a write into an
// outcome. code is the Kafka error code of the last attempt, 0 for success; a
// write without an answer (time-out, lost connection) has no code and is Info.
// earlierUnknown says that an earlier attempt of the same batch had an
// unknown outcome: then not even a definite rejection proves that the write
// was not applied, because that earlier attempt may still be.
func Outcome(code int16, earlierUnknown bool) Type {
	if code == 0 {
		return OK
	}
	if _, ok := definite[code]; ok && !earlierUnknown {
		return Fail
	}
	return Info
}

package api

// rows is the one place where a key is registered. Handlers live in the file
// that carries the key's number.
func rows() []*Key {
	return []*Key{
		{Key: 0, Max: 13, ServedMin: 3, FlexibleFrom: 9, MaxBytes: maxProduceBytes, Auth: Auth{OpWrite, ResourceTopic, PerResource},
			layout: "s@3+ h i [ s@0-12 u@13+ [ i y ] ]", handle: produce,
			Note: "0-2 are advertised for clients that derive features from them, and close the connection; a transactional id is refused; acks=1 waits like acks=all unless the topic has acks.floor=client"},
		{Key: 1, Min: 4, Max: 18, FlexibleFrom: 12, MaxBytes: maxAdminBytes, Auth: Auth{OpRead, ResourceTopic, PerResource},
			layout: `i@0-14 i i i b i@7+ i@7+
				[ s@0-12 u@13+ [ i i@9+ l i@12+ l@5+ i <0:u@17+ <1:l@18+ ] ]
				[ s@0-12 u@13+ *i ]@7+ s@11+ <0:s@12+ <1 i l >@15+`, handle: fetch,
			Note: "replica fetches on the internal listener only; incremental sessions; any replica serves committed records (KIP-392)"},
		{Key: 2, Min: 1, Max: 11, FlexibleFrom: 6, MaxBytes: maxAdminBytes, Auth: Auth{OpDescribe, ResourceTopic, PerResource},
			layout: "i b@2+ [ s [ i i@4+ l ] ] i@10+", handle: listOffsets,
			Note: "-4 equals -2; -5 and -6 answer -1: there is no tiered storage"},
		{Key: 3, Max: 13, FlexibleFrom: 9, MaxBytes: maxAdminBytes, Auth: Auth{OpDescribe, ResourceTopic, PerResource},
			layout: "[ u@10+ s ] b@4+ b@8-10 b@8+", handle: metadata,
			Note: "the controller is the answering broker, which forwards"},
		{Key: 18, Max: 5, FlexibleFrom: 3, MaxBytes: maxSmallBytes, PreAuth: true, Auth: Auth{OpNone, ResourceNone, Open},
			layout: "s@3+ s@3+ s@5+ i@5+", handle: apiVersions,
			Note: "an unknown version gets error 35 with this key's range; 5 checks cluster and node id (KIP-1242)"},
		{Key: 19, Min: 2, Max: 7, FlexibleFrom: 5, MaxBytes: maxAdminBytes, Auth: Auth{OpCreate, ResourceCluster, Before},
			layout: "[ s i h [ i *i ] [ s s ] ] i b", handle: createTopics,
			Note: "returns when this broker has applied the topics"},
	}
}

package api

import (
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions (18, versions 0-5) is the first request of every client and is
// served before authentication.
//
//   - An unknown version gets a version 0 body with error 35 and this key's
//     range only (KIP-511); the connection stays.
//   - The response header has version 0 always; that is the server's work.
//   - Version 3 and later name the client's software (KIP-511).
//   - Version 5 says whom the client believes to talk to (KIP-1242).
const apiVersionsKey = 18

// softwareName is KIP-511's rule for software names and versions.
var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// maxSoftwareName bounds what is kept of a client's software, in bytes.
const maxSoftwareName = 256

// metadataVersion is the one feature reported: the level of the Kafka release
// whose ranges are advertised (4.3-IV0 is the newest production level of 4.4).
// transaction.version, group.version and the others are absent until there is
// something behind them.
const (
	metadataVersionFeature = "metadata.version"
	metadataVersionMin     = 7
	metadataVersionMax     = 30
)

func apiVersions(c *call) {
	var req kmsg.ApiVersionsRequest
	if !c.decode(&req) {
		return
	}
	if code := checkSoftware(c, &req); code != 0 {
		c.reply(&kmsg.ApiVersionsResponse{ErrorCode: code, FinalizedFeaturesEpoch: -1})
		return
	}
	if code := checkAddressee(c, &req); code != 0 {
		c.reply(&kmsg.ApiVersionsResponse{ErrorCode: code, FinalizedFeaturesEpoch: -1})
		return
	}
	resp := &kmsg.ApiVersionsResponse{ApiKeys: make([]kmsg.ApiVersionsResponseApiKey, 0, len(Keys()))}
	for _, k := range Keys() {
		resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k.Key, MinVersion: k.Min, MaxVersion: k.Max})
	}
	resp.SupportedFeatures = []kmsg.ApiVersionsResponseSupportedFeature{
		{Name: metadataVersionFeature, MinVersion: metadataVersionMin, MaxVersion: metadataVersionMax},
	}
	resp.FinalizedFeaturesEpoch = int64(c.s.b.Image().Index)
	resp.FinalizedFeatures = []kmsg.ApiVersionsResponseFinalizedFeature{
		{Name: metadataVersionFeature, MinVersionLevel: metadataVersionMax, MaxVersionLevel: metadataVersionMax},
	}
	c.reply(resp)
}

// checkSoftware validates and keeps the client's software name and version.
func checkSoftware(c *call, req *kmsg.ApiVersionsRequest) int16 {
	if c.version < 3 {
		return 0
	}
	for _, s := range []string{req.ClientSoftwareName, req.ClientSoftwareVersion} {
		if len(s) > maxSoftwareName || !softwareName.MatchString(s) {
			return kerr.InvalidRequest.Code
		}
	}
	if c.conn != nil {
		c.conn.SetSoftware(cloneString(req.ClientSoftwareName), cloneString(req.ClientSoftwareVersion))
	}
	return 0
}

// checkAddressee refuses a client that means another cluster or broker.
func checkAddressee(c *call, req *kmsg.ApiVersionsRequest) int16 {
	if c.version < 5 {
		return 0
	}
	if (req.ClusterID == nil) != (req.NodeID < 0) {
		return kerr.InvalidRequest.Code
	}
	if req.ClusterID == nil {
		return 0
	}
	if *req.ClusterID != c.s.b.Image().ClusterID || req.NodeID != int32(c.s.b.Self()) {
		return kerr.RebootstrapRequired.Code
	}
	return 0
}

// apiVersionsUnsupported answers a version that is not known.
func apiVersionsUnsupported(c *call) {
	c.version = 0
	c.reply(&kmsg.ApiVersionsResponse{
		ErrorCode: kerr.UnsupportedVersion.Code,
		ApiKeys:   []kmsg.ApiVersionsResponseApiKey{{ApiKey: apiVersionsKey, MinVersion: c.key.Min, MaxVersion: c.key.Max}},
	})
}

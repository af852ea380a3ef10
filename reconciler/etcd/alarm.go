package etcd

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// alarmAdvice says what each alarm of etcd means, and what to do.
var alarmAdvice = map[string]string{
	"NOSPACE": adviceNoSpace,
	"CORRUPT": adviceCorrupt,
}

// alarmText is the status's sentence on alarms, or empty if there are none.
func alarmText(alarms []string) string {
	var said []string
	for _, alarm := range alarms {
		advice, known := alarmAdvice[alarm]
		if !known {
			advice = "see etcd's documentation"
		}
		said = append(said, fmt.Sprintf("etcd raises the alarm %s: %s", alarm, advice))
	}
	return strings.Join(said, "; ")
}

// alarmName finds the name of an alarm in the text of one in a member's status.
var alarmName = regexp.MustCompile(`\balarm:\s*([A-Z]{1,20})\b`)

// readAlarms asks a member which alarms the cluster raises; sorted, each once.
// It reads the member's status, because the list of alarms would be an entry in
// the log of every member.
func (s *Store) readAlarms(ctx context.Context, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	status, err := pb.NewMaintenanceClient(s.etcd().ActiveConnection()).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("reading the status of a member of etcd: %w", err)
	}
	var alarms []string
	for _, text := range status.Errors {
		if found := alarmName.FindStringSubmatch(text); found != nil && !slices.Contains(alarms, found[1]) {
			alarms = append(alarms, found[1])
		}
	}
	slices.Sort(alarms)
	return alarms, nil
}

package chaos

import (
	"fmt"
	"math/rand/v2"
)

// makeTree returns the files of a policy folder, or nil for no folder. All fields with a default
// are written out, so that the served values equal the written ones. Some policies are the same
// in all trees, and at least one delay is unique, so that no two trees have the same set.
func makeTree(random *rand.Rand, number int) map[string]string {
	if random.IntN(30) == 0 {
		return nil
	}
	files := map[string]string{}
	for i, name := range random.Perm(16)[:5+random.IntN(8)] {
		delay := 900_000 + name
		if i == 0 || random.IntN(3) == 0 {
			delay = 1000 + number*20 + i
		}
		path, content := policyFile(random, fmt.Sprintf("p%02d", name), delay)
		files[path] = content
	}
	if random.IntN(3) == 0 {
		count := 2 + random.IntN(2)
		if random.IntN(3) == 0 {
			count = 160 // More than fits into one transaction of etcd.
		}
		files["generated/all.cue"] = generated(number, count)
	}
	if random.IntN(10) < 3 {
		spoil(random, files)
	}
	return files
}

// policyFile returns a policy in one of the file formats.
func policyFile(random *rand.Rand, name string, delay int) (path, content string) {
	percentage := []string{"50", "12.5", "0.0001", "100"}[delay%4]
	switch random.IntN(4) {
	case 0:
		return name + ".json", fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"selector": {"service": "frontend", "namespace": "demo"},
  "rules": [{"fault": {"percentage": %s, "delay_ms": %d}}]}}`, name, percentage, delay)
	case 1:
		return "team/" + name + ".yaml", fmt.Sprintf(`metadata:
  name: %s
spec:
  selector: {service: "*", namespace: demo}
  rules:
    - match:
        methods: [GET, POST]
        path: {prefix: /api}
      fault:
        percentage: %s
        abort: {status: 503, body: "delayed by %d"}
    - fault: {percentage: 1, delay_ms: %d}
`, name, percentage, delay, delay)
	default:
		return name + ".yaml", fmt.Sprintf(`# A comment is no part of a policy.
metadata:
  name: %s
spec:
  selector:
    service: cart
    namespace: "*"
  rules:
    - fault:
        delay_ms: %d
        percentage: %s
`, name, delay, percentage)
	}
}

// generated returns a CUE package that generates several policies.
func generated(number, count int) string {
	return fmt.Sprintf(`package generated

import (
	"list"

	"github.com/boifi/hfi/schema"
)

policies: schema.#Policies
policies: {
	for i in list.Range(0, %d, 1) {
		"made-\(i)": spec: {
			selector: {service: "frontend", namespace: "demo"}
			rules: [{fault: {percentage: 25, delay_ms: %d + i}}]
		}
	}
}
`, count, 500_000+number*200)
}

// spoil makes the files invalid in a random way.
func spoil(random *rand.Rand, files map[string]string) {
	rules := "spec: {selector: {service: a, namespace: b}, rules: [{fault: {percentage: 10, delay_ms: 1}}]}\n"
	switch random.IntN(8) {
	case 0:
		files["bad.yaml"] = "metadata: {name: bad}\nspec: {rules: [{fault: {percentage: 150, delay_ms: 1}}]}\n"
	case 1:
		files["bad.yaml"] = "metadata: {name: bad}\nspec: {rules: [{fault: {delay_ms: 1, latency: 2}}]}\n"
	case 2:
		files["bad.yaml"] = "metadata: {name: bad\nspec:"
	case 3:
		files["bad.json"] = `{"metadata": {"name": "bad"}}`
	case 4:
		// Two equal policies with one name.
		files["one.yaml"] = "metadata: {name: twice}\n" + rules
		files["two.yaml"] = "metadata: {name: twice}\n" + rules
	case 5:
		files["generated/all.cue"] = "package generated\n\npolicies: bad: metadata: name: \"bad\"\npolicies: bad: spec: rules: [{fault: delay_ms: 1 & 2}]\n"
	case 6:
		files["generated/all.cue"] = "package generated\n\npolicies: {"
	case 7:
		files["bad.yaml"] = "metadata: {name: Not_A_Label}\n" + rules
	}
}

// What the reference implementation makes of CNI results: reads one a line on standard input, and answers each with a
// line of JSON that has the result in every version, or why there is none.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/types/create"
)

var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := json.Marshal(convert(lines.Bytes()))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(string(answer))
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func convert(line []byte) map[string]any {
	answers := map[string]any{}
	for _, version := range versions {
		// A result is changed by its own conversion: each begins anew.
		answers[version] = as(line, version)
	}
	return answers
}

func as(line []byte, version string) any {
	result, err := create.CreateFromBytes(line)
	if err == nil {
		result, err = result.GetAsVersion(version)
	}
	var out bytes.Buffer
	if err == nil {
		err = result.PrintTo(&out)
	}
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return json.RawMessage(out.Bytes())
}

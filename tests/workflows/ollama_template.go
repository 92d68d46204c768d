// Writes conversations by the template of a Modelfile, as Ollama does: go run ollama_template.go.
// Reads {Template, Talks} as JSON, and writes the texts.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }

func main() {
	var in struct {
		Template string
		Talks    [][]Message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Option("missingkey=zero").Parse(in.Template))
	texts := []string{}
	for _, talk := range in.Talks {
		var text strings.Builder
		if err := parsed.Execute(&text, map[string]any{"Messages": talk}); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}

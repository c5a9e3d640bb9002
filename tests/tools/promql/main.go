// The query language's own parser, that the dashboard's queries are checked with: nothing here is part of the product.
//
// Reads one query a line and says of each what the parser says against it; ends with 1 where it says anything.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	queries := parser.NewParser(parser.Options{})
	wrong := false
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := queries.ParseExpr(lines.Text()); err != nil {
			fmt.Printf("%s: %v\n", lines.Text(), err)
			wrong = true
		}
	}
	if wrong {
		os.Exit(1)
	}
}

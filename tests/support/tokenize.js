// Tokens of texts as VS Code finds them, by its own libraries: node tokenize.js GRAMMAR FILE... prints, as JSON, for each
// file its lines, each a list of [start, end, scope], and whether a line took too long.
"use strict";

const fs = require("fs");
const oniguruma = require("vscode-oniguruma");
const textmate = require("vscode-textmate");

async function main([grammarPath, ...files]) {
  await oniguruma.loadWASM(fs.readFileSync(require.resolve("vscode-oniguruma/release/onig.wasm")).buffer);
  const registry = new textmate.Registry({
    onigLib: Promise.resolve({
      createOnigScanner: (patterns) => new oniguruma.OnigScanner(patterns),
      createOnigString: (text) => new oniguruma.OnigString(text),
    }),
    loadGrammar: async () => textmate.parseRawGrammar(fs.readFileSync(grammarPath, "utf8"), grammarPath),
  });
  const grammar = await registry.loadGrammar("source.det");
  const found = {};
  for (const file of files) {
    let state = textmate.INITIAL;
    found[file] = fs.readFileSync(file, "utf8").split("\n").map((line) => {
      const result = grammar.tokenizeLine(line, state, 200);
      if (result.stoppedEarly) throw new Error(`${file}: slow line: ${line}`);
      state = result.ruleStack;
      return result.tokens.map((token) => [token.startIndex, token.endIndex, token.scopes.at(-1)]);
    });
  }
  process.stdout.write(JSON.stringify(found));
}

main(process.argv.slice(2));

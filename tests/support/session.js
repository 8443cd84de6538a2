// A session with `detc lsp` by the library that VS Code speaks the protocol with: node session.js FOLDER COMMAND... prints,
// as JSON, what the server says of FOLDER/mine.det.
"use strict";

const { spawn } = require("child_process");
const fs = require("fs");
const path = require("path");
const { pathToFileURL } = require("url");
const protocol = require("vscode-languageserver-protocol/node");

async function main([folder, program, ...words]) {
  const server = spawn(program, words, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => server.on("exit", resolve));
  const connection = protocol.createProtocolConnection(
    new protocol.StreamMessageReader(server.stdout),
    new protocol.StreamMessageWriter(server.stdin),
  );
  connection.listen();
  const file = path.join(folder, "mine.det");
  const uri = pathToFileURL(file).href;
  const seen = [];
  const diagnosed = (version) =>
    new Promise((resolve) => {
      const look = () => {
        const found = seen.find((params) => params.version === version);
        found ? resolve(found.diagnostics) : setTimeout(look, 20);
      };
      look();
    });
  connection.onNotification(protocol.PublishDiagnosticsNotification.type, (params) => seen.push(params));
  const { capabilities } = await connection.sendRequest(protocol.InitializeRequest.type, {
    processId: process.pid,
    rootUri: pathToFileURL(folder).href,
    capabilities: { textDocument: { publishDiagnostics: { versionSupport: true } } },
  });
  await connection.sendNotification(protocol.InitializedNotification.type, {});
  const text = fs.readFileSync(file, "utf8");
  const textDocument = { uri, languageId: "det", version: 1, text };
  await connection.sendNotification(protocol.DidOpenTextDocumentNotification.type, { textDocument });
  const before = await diagnosed(1);
  const start = { line: 0, character: 0 };
  const contentChanges = [{ range: { start, end: start }, text: "let = 1\n" }];
  const changed = { textDocument: { uri, version: 2 }, contentChanges };
  await connection.sendNotification(protocol.DidChangeTextDocumentNotification.type, changed);
  const after = await diagnosed(2);
  const symbols = await connection.sendRequest(protocol.DocumentSymbolRequest.type, { textDocument: { uri } });
  await connection.sendRequest(protocol.ShutdownRequest.type);
  await connection.sendNotification(protocol.ExitNotification.type);
  const status = await ended;
  const codes = (diagnostics) => diagnostics.map((d) => [d.code, d.range.start.line]);
  const names = symbols.map((symbol) => symbol.name);
  console.log(JSON.stringify({ status, hover: !!capabilities.hoverProvider, before: codes(before), after: codes(after), names }));
}

main(process.argv.slice(2));

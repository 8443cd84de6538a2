// Starts `detc lsp` and connects the editor to it. Colours and brackets need none of this.
"use strict";

const vscode = require("vscode");

let client;

exports.activate = async function () {
  let languageclient;
  try {
    languageclient = require("vscode-languageclient/node");
  } catch {
    vscode.window.showWarningMessage(`detc: for the language server, run npm install in ${__dirname}`);
    return;
  }
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  const command = vscode.workspace.getConfiguration("detc").get("command");
  const server = { command, args: ["lsp"], options: { cwd: folder } };
  const watched = vscode.workspace.createFileSystemWatcher("**/*.det");
  client = new languageclient.LanguageClient("detc", "detc", server, {
    documentSelector: [{ language: "det" }],
    synchronize: { fileEvents: watched },
  });
  await client.start();
};

exports.deactivate = () => client?.stop();

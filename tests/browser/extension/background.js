// What the tests call in this service worker: one message, and a chat over a port.
const HOST = "com.daemonpulse.host";

function ask(request) {
  return chrome.runtime.sendNativeMessage(HOST, request).catch((error) => ({ refused: error.message }));
}

function chat(request, cancelAfter = Infinity) {
  return new Promise((resolve) => {
    const port = chrome.runtime.connectNative(HOST);
    const messages = [];
    port.onMessage.addListener((message) => {
      messages.push(message);
      if (messages.length === cancelAfter) port.postMessage({ action: "cancel", id: request.id });
      if (message.status !== "chunk") {
        port.disconnect();
        resolve(messages);
      }
    });
    port.onDisconnect.addListener(() => resolve([...messages, { refused: chrome.runtime.lastError?.message }]));
    port.postMessage({ action: "chat_completion", ...request });
  });
}

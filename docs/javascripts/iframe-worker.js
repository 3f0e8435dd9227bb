// Browsers start no workers for pages that are opened from the disk. The site's search is a worker:
// there, run its script in a hidden frame instead, which exchanges the same messages.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.ready = new Promise((resolve, reject) => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        document.body.append(frame)
        const script = frame.contentDocument.createElement("script")
        script.onload = () => resolve(frame.contentWindow)
        script.onerror = () => reject(new Error(`${url} cannot be loaded`))
        frame.contentWindow.postMessage = data => this.receive(data)
        script.src = url
        frame.contentDocument.body.append(script)
      })
    }

    receive(data) {
      this.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      this.ready.then(frame => frame.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}

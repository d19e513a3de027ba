// Lets the search of a page that was opened from the disk work: browsers have no workers there. A
// hidden frame runs the script instead.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', { data }));
      const script = this.inner.document.createElement('script');
      script.src = url;
      this.ready = new Promise((done) => script.addEventListener('load', done));
      this.inner.document.body.append(script);
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent('message', { data })));
    }
    terminate() {}
  };
}
